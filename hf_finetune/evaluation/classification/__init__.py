"""The figures of classifiers and regressions.

metrics.py           logits -> metrics, while it trains and for the report
statistics.py        the same for many resamples at once
confusion_counts.py  the metrics that follow from confusion counts
calibration.py       temperature and thresholds, fitted to the validation split
thresholds.py        the search for thresholds over all cuts between scores
baselines.py         the majority class, and a logistic regression on TF-IDF features
mistakes.py          the worst mistakes: wrong labels are among them
"""
