"""HF30x to HF37x, of HF3xx (labels and evaluation)."""

from __future__ import annotations

from hf_finetune.codes.code import Code

EVALUATION: dict[str, Code] = {
    # Labels in the rows, and what a run makes of them.
    "HF300": Code(
        "labels of several types",
        "error",
        '1 and "1" would be two classes, and a single label beside a list of them is another task.',
        "write all labels in one type",
    ),
    "HF301": Code(
        "a row without a label",
        "error",
        "It would be trained or scored as a class that has no name.",
        "name the label, take the row out, or allow [] for rows that no label fits with data.allow_empty",
    ),
    "HF302": Code(
        "a label that occurs twice in one row",
        "error",
        "A row has a label or has not; a second mention is mostly a slip for another label.",
        "keep one of them",
    ),
    "HF303": Code(
        "one label that is written in two ways",
        "error",
        "Labels that differ by case or white space, or as two spellings of a number, would be trained as two classes "
        "which no model can tell apart.",
        "write it in one way, or name both alike in data.labels",
    ),
    "HF304": Code(
        "a label that data.labels does not name",
        "error",
        "Where labels are given names, one without a name is mostly misspelled.",
        "correct it, or add it to data.labels under the name that it is to have",
    ),
    "HF305": Code(
        "a label in data.labels that no row has",
        "error",
        "It is misspelled, or of other rows: the label that was meant keeps its old name.",
        "correct it, or leave it out",
    ),
    "HF306": Code(
        "training rows among which there is nothing to learn",
        "error",
        "Where every row has the same label or number, the best a model can do is to ignore the text.",
        "add rows with other labels",
    ),
    "HF307": Code(
        "a label that a single row has",
        "error",
        "One row can be trained or measured, and not both.",
        "add rows of it, merge it with another label, or take it out",
    ),
    "HF308": Code(
        "a label that is evaluated and never trained",
        "error",
        "The model has no class for it, so that each of its rows counts as an error whatever the model says.",
        "correct the label, add training rows of it, or take the rows out",
    ),
    "HF309": Code(
        "a data.balance that does not fit the labels",
        "error",
        "A weight for a label that is not there has no effect, one that is missing cannot be guessed, and a row with "
        "several labels cannot be left out for one of them alone.",
        "give each label one weight, or write weights or focal",
    ),
    "HF310": Code(
        "a label that is too large a number for training",
        "error",
        "Training computes in float32, in which it is infinite, and so would be the loss.",
        "scale the labels down",
    ),
    "HF311": Code(
        "a split has no row of some labels",
        "warning",
        "These labels have no score of their own, and an average over labels is one over the others.",
        "add rows of these labels to the split, or draw it with data.stratify_by",
    ),
    # What `score` compares and measures.
    "HF321": Code(
        "rows of several labels for a model that gives one",
        "error",
        "Which of the labels was to be found cannot be told.",
        "keep one label in each row, or score a model for several labels",
    ),
    "HF322": Code(
        "two classifiers of other labels that are to be compared",
        "error",
        "One row counts as right for one of them and as wrong for the other for their names alone.",
        "name a classifier of the same labels",
    ),
    "HF323": Code(
        "something is asked of a model that models of its kind do not have",
        "error",
        "A classifier writes no text and reads no chat template, a language model gives no labels: the setting would "
        "do nothing.",
        "leave the setting out, or name a model of the other kind",
    ),
    "HF324": Code(
        "no row has a word that is to be swapped",
        "warning",
        "The effect of swapping the words of this list is not measured, and the report does not have it.",
        "name another list in eval.swaps, or score rows that have such words",
    ),
    "HF325": Code(
        "references that are longer than an answer can become",
        "warning",
        "No answer can match them: exact match has an upper bound below one, which says nothing of the model.",
        "raise eval.max_new_tokens",
    ),
    "HF326": Code(
        "a task that the evaluation harness does not know",
        "error",
        "Nothing can be measured by a name that is not known.",
        "name one of `lm-eval ls tasks`, or the YAML file of a task",
    ),
    "HF327": Code(
        "rows that are asked for by heart were not among the training data",
        "warning",
        "That a model does not know them by heart says nothing then.",
        "name the canaries and the files that the run was trained on, as its manifest has them",
    ),
    "HF328": Code(
        "a model is scored in another precision than it was evaluated in",
        "warning",
        "The figures may differ from those of its run in the last digits.",
        "score it on a GPU, if they are to be the same",
    ),
    # What is beside a score: the base that it is compared with, and its probabilities.
    "HF331": Code(
        "the base is not scored, and not compared with",
        "warning",
        "Without the model that the run began with, a loss does not tell what training has gained.",
        "score it afresh with `hf-finetune score --base`",
    ),
    "HF332": Code(
        "scores of the base are not kept, or cannot be read again",
        "warning",
        "They are computed anew, by this run or by the next one; no figure changes.",
        "nothing; make room in the cache if it is to be faster",
    ),
    "HF333": Code(
        "the temperature of a classifier is at its bound",
        "warning",
        "The logits say next to nothing about the labels of validation: probabilities made of them are no better than "
        "the shares of the labels.",
        "look at the scores before the probabilities are used, and train longer or on more rows",
    ),
    # Rows that are labeled by a saved classifier.
    "HF340": Code(
        "texts are cut before they are labeled",
        "warning",
        "The label is of the beginning of the text alone.",
        "raise --max-length as far as the model takes it, or cut the texts where it makes sense",
    ),
    "HF341": Code(
        "rows without text are labeled",
        "warning",
        "A model gives all of them one label, which says nothing of them.",
        "leave them out, or look why they are empty",
    ),
    "HF342": Code(
        "a classifier two of whose labels have one name",
        "error",
        "Its answers could not be told apart.",
        "correct id2label in config.json",
    ),
    "HF343": Code(
        "a row that has a field of the name that a prediction or an answer is to get",
        "error",
        "What the row came with would be written over.",
        "give the added fields other names with --prefix",
    ),
    "HF344": Code(
        "a file to label or to answer holds no rows",
        "warning",
        "It is empty, or has blank lines alone, and so is the output. Mostly it is what is left of a step before that "
        "failed.",
        "look after what wrote the file; where it may be empty, nothing has to be done",
    ),
    # Text that is generated.
    "HF350": Code(
        "fewer prompts are answered at once, for want of memory",
        "warning",
        "It takes longer than all of them at once would have.",
        "lower eval.batch_size, which saves the attempts that fail",
    ),
    "HF351": Code(
        "prompts are cut at their start",
        "warning",
        "The model reads the end of the prompt alone, and answers a question whose beginning it has not seen.",
        "shorten the prompts, or lower eval.max_new_tokens, which takes its room from them",
    ),
    "HF352": Code(
        "a model without a chat template is to answer",
        "error",
        "It continues text, and nothing tells it where a question ends and an answer begins.",
        "fine-tune it on conversations first, or let it continue text",
    ),
    "HF353": Code(
        "a text with characters that the tokenizer has never seen",
        "error",
        "They would be left out, or all become one token: the model would answer another text.",
        "write it without them",
    ),
    "HF354": Code(
        "a chat that is not saved",
        "error",
        "A row without a finished answer would teach a model to stop in the middle of a sentence, and a file that "
        "holds something else than rows would be spoiled by one.",
        "let the model finish an answer, and name a new file or one of rows in a folder that is there",
    ),
    "HF355": Code(
        "a text that is longer than the model takes",
        "error",
        "A part of it would be left out, and what is measured or answered would be another text.",
        "shorten it, or name fewer tokens",
    ),
    # Rows that are no test of a model that was trained on them.
    "HF360": Code(
        "rows that are scored or labeled were trained",
        "warning",
        "The figures say how well they were learned by heart, and not what the model does with new rows.",
        "score rows that the model was not trained on",
    ),
    "HF361": Code(
        "whether rows were trained is not known",
        "warning",
        "The run of the model has left no record of its training rows, so that nobody can tell whether they are new.",
        "keep the run folder as the run wrote it, or train again",
    ),
    "HF362": Code(
        "answers that were begun from something else",
        "error",
        "Beside the output lie rows that an earlier call has answered, and its model, its options or its rows were "
        "others: the file would hold answers of both.",
        "type the command of before, which goes on behind them, or begin anew with --overwrite",
    ),
}
