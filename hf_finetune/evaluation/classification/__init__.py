"""The figures of classifiers and regressions.

metrics.py           logits -> metrics, while it trains and for the report
statistics.py        the same for many resamples at once
intervals.py         the intervals that can be shown, and labels that are too rare for one
confusion_counts.py  the metrics that follow from confusion counts
calibration.py       temperature and thresholds, fitted to the validation split
fitted.py            what the figures of the rows say that a decision was fitted to
thresholds.py        the search for thresholds over all cuts between scores
baselines.py         the majority class, and a logistic regression on TF-IDF features
mistakes.py          the worst mistakes: wrong labels are among them
"""
