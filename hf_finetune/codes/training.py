"""HF9xx: training, what comes of it, and going on with it.

HF90x and HF91x going on with a run, HF92x its steps, HF93x rows, settings and the end, HF94x merging, HF95x what a run
has left, HF96x the use of a model.
"""

from __future__ import annotations

from hf_finetune.codes.code import Code

TRAINING: dict[str, Code] = {
    "HF901": Code(
        "the run to go on from does not fit the settings",
        "error",
        "Its optimizer, its schedule and the order of its rows belong to the settings, the weights and the number of "
        "processes that it began with: with others the run would be a mixture of two.",
        "set them as they were (run.yaml in the folder of the run), allow what may change, or name another output_dir",
    ),
    "HF902": Code(
        "the data are not those that the run began with",
        "error",
        "Rows would be trained twice or never, and rows of validation and test could become training rows.",
        "put the files and the section data back as they were (run.yaml), or begin a run in another output_dir",
    ),
    "HF903": Code(
        "the model is not the one that the run began with",
        "error",
        "The states of the optimizer belong to other weights, and what is trained further is not what was trained.",
        "put the files of model and tokenizer back, or name the commit that the run began with in model.revision",
    ),
    "HF904": Code(
        "the model was changed after it was restored from a checkpoint",
        "error",
        "The next step would be taken from other weights than those that the optimizer knows.",
        "leave the model as it is between its making and `trainer.train`",
    ),
    "HF905": Code(
        "there is no checkpoint to go on from",
        "error",
        "Beginning anew in its place would be another run than the one that was asked for.",
        "leave train.resume_from_checkpoint out, or name a checkpoint that is there",
    ),
    "HF906": Code(
        "a checkpoint cannot be gone on from",
        "error",
        "It is of another run, was cut short or changed, or says what no run writes: what it gives to the next step "
        "is not what training had left.",
        "name another checkpoint, or leave train.resume_from_checkpoint out for the newest that is whole",
    ),
    "HF907": Code(
        "the folder holds checkpoints of several runs",
        "error",
        "Without a manifest nothing says which run is meant, and the newest checkpoint may be of the wrong one.",
        "name the checkpoint to go on from in train.resume_from_checkpoint",
    ),
    "HF908": Code(
        "the run has come to its end already",
        "note",
        "The same command was typed again, and there is nothing left to do: its model and report are there.",
        "name another output_dir to run it again, or raise train.max_steps to train on",
    ),
    "HF909": Code(
        "the model of a finished run is lost",
        "error",
        "Its report says that it is finished, and there is no checkpoint to write the weights again from.",
        "put the weights back, or train again in another output_dir",
    ),
    "HF910": Code(
        "the run file says that its run is in another folder",
        "error",
        "The folder was moved or copied, or is named from another working folder: the run would begin anew where it "
        "was.",
        "add output_dir= with the folder of this run to go on with it, or name the folder of a new one",
    ),
    "HF911": Code(
        "a run goes on under other conditions than it began with",
        "warning",
        "Versions, processors, threads and processes decide how numbers are rounded: the figures may differ in their "
        "last digits from those of a run that was not interrupted.",
        "go on with the versions, the machine and the number of threads that it began with, where each bit counts",
    ),
    "HF912": Code(
        "a setting has changed since the run began",
        "warning",
        "The run goes on with it from here; manifest.json keeps each change with the checkpoint at which it was made.",
        "set it as it was (run.yaml in the folder of the run) where that was not meant",
    ),
    "HF913": Code(
        "a record of the run is torn or gone, and is written again",
        "warning",
        "The run goes on without it. Where run.yaml was torn, the settings of now are compared with nothing.",
        "leave run.yaml and manifest.json of a run where they are",
    ),
    "HF914": Code(
        "the run is beyond the end that is set",
        "warning",
        "The checkpoint has more steps or epochs than are asked for: none is taken, and the model is that of the "
        "checkpoint.",
        "raise train.max_steps or train.num_train_epochs to train on",
    ),
    "HF915": Code(
        "the optimizer keeps what no checkpoint can hold",
        "error",
        "Checkpoints hold numbers, texts and tensors, since anything else would be a pickle, which can run code of "
        "others. Without its state a run could not be gone on with.",
        "choose another train.optim, or set train.save_strategy: no",
    ),
    "HF916": Code(
        "a callback cannot go on from the checkpoint",
        "error",
        "What it had counted or kept does not fit the callback that is there now, which would count from a wrong "
        "place.",
        "name another checkpoint, or leave the callback or its state out",
    ),
    "HF917": Code(
        "a checkpoint takes long to be saved",
        "warning",
        "Who ends a run mostly gives it 30 seconds: what it saves for the signal may not come to its end, and the "
        "checkpoint before it is then the last.",
        "let torchrun, Slurm or Kubernetes wait longer; docs/long-runs.md says how",
    ),
    "HF921": Code(
        "a step was stopped because its loss or gradient is not finite",
        "error",
        "One such step turns every weight into NaN, and each step behind it is lost. Nothing of it has reached the "
        "weights.",
        "look at the rows that are named, lower train.learning_rate, or set train.on_nonfinite: skip",
    ),
    "HF922": Code(
        "a step was left out because its loss or gradient is not finite",
        "warning",
        "Its rows teach nothing in this pass, as train.on_nonfinite: skip allows; nonfinite.json lists them.",
        "look at the rows; where there are many, lower train.learning_rate",
    ),
    "HF923": Code(
        "trained weights are not finite",
        "error",
        "The model would answer NaN to everything, so it is not saved, and what was saved before stays.",
        "lower train.learning_rate, and go on from the checkpoint that the message names",
    ),
    "HF924": Code(
        "the gradients overflow in float16, whatever the loss is scaled by",
        "error",
        "Each such step is passed over, so that the run would reach its end without having learned anything.",
        "set train.bf16 in place of train.fp16, or lower train.learning_rate",
    ),
    "HF925": Code(
        "the gradient is exactly zero from the first step on",
        "error",
        "No weight moves, so that the model at the end would be the one at the beginning.",
        "look at whether the rows have anything to train (labels, data.loss_on), and at what is frozen",
    ),
    "HF926": Code(
        "the loss, the gradient or the learning rate stays at exactly zero",
        "warning",
        "Nothing is learned meanwhile: the rows are known by heart, the gradient is lost on its way, or the schedule "
        "has come to its end.",
        "look at the curves in the report; fewer epochs or another schedule may do",
    ),
    "HF927": Code(
        "the loss explodes",
        "error",
        "A step has thrown the weights away, and they do not come back: the rest of the run would be computed for "
        "nothing.",
        "begin again in another output_dir with a lower train.learning_rate, or longer train.warmup_steps",
    ),
    "HF928": Code(
        "weights that are to be trained do not move",
        "error",
        "No gradient reaches them, as under gradient checkpointing with frozen inputs: the run would end as if it had "
        "trained them.",
        "look at the data, the learning rate and, with gradient checkpointing, whether inputs require gradients",
    ),
    "HF929": Code(
        "the model cannot keep packed documents apart",
        "error",
        "Each document would be read with what stands before it in its row, which the loss does not show: the model "
        "learns from texts that have nothing to do with each other.",
        "set train.packing or data.isolate_documents to false, as the message says",
    ),
    "HF931": Code(
        "the rows do not fill one batch",
        "error",
        "Under train.dataloader_drop_last what fills no batch is left out, so that not one step would be taken.",
        "lower train.per_device_train_batch_size, or give more rows",
    ),
    "HF932": Code(
        "the processes have not read the same rows",
        "error",
        "The one with fewer would be through first, and the others would wait for it for ever; with as many "
        "others, the report would name data that only a part of the run has seen.",
        "give each machine the same files, and leave them alone while a run starts",
    ),
    "HF933": Code(
        "another process cannot read its next rows",
        "error",
        "The processes of a run take each step together, so that none goes on without the rows of another.",
        "see what the message of that process says",
    ),
    "HF934": Code(
        "transformers or trl refuses the training settings",
        "error",
        "Each value is one that its setting can have, and together they make no training that the library knows.",
        "change what the message names, or leave it out",
    ),
    "HF935": Code(
        "the warm-up is as long as the run or longer",
        "warning",
        "The learning rate that was asked for is never reached, so that the model learns less than the settings say.",
        "lower train.warmup_steps: a twentieth of the steps is usual",
    ),
    "HF936": Code(
        "no checkpoint is the best one",
        "warning",
        "The metric by which it is chosen was never a number on the validation rows: the last weights are kept, as if "
        "no best model had been asked for.",
        "look at the validation rows, or choose another train.metric_for_best_model",
    ),
    "HF937": Code(
        "calibration or thresholds do not fit into the head of the classifier",
        "error",
        "The saved model would give other probabilities than those that were measured.",
        "set eval.calibrate: false, and leave eval.threshold_metric out",
    ),
    "HF941": Code(
        "the merged model is not the model with its adapter",
        "error",
        "Its loss or its logits are others than before the merge, by more than rounding explains: what was measured "
        "would not be what is used.",
        "merge with --dtype float32, or allow more with --tolerance; in float32 please report it",
    ),
    "HF942": Code(
        "weights are saved in float32, since some are beyond the range asked for",
        "warning",
        "In float16 such a weight would be infinite, and the model would answer NaN. The files are larger than "
        "expected.",
        "save in bfloat16, whose range is nearly that of float32",
    ),
    "HF943": Code(
        "the merged model is compared on random tokens",
        "warning",
        "There are no held-out rows of the run to compare it on, and text from nowhere tells less of a model than "
        "rows of its task.",
        "name held-out rows with --data",
    ),
    "HF951": Code(
        "what is named is no folder of a run",
        "error",
        "A run leaves a log, a manifest, a report or checkpoints in its folder, and there is none of them to read.",
        "name the folder of a run of this or of another Trainer, or a checkpoint",
    ),
    "HF952": Code(
        "a file of the run is torn or malformed",
        "error",
        "A page or a comparison that is made of half a record would show figures that were never measured.",
        "put it back as the run wrote it, or remove it: the run is then read from what else is there",
    ),
    "HF953": Code(
        "a part of what a run has written is damaged, and left out",
        "warning",
        "A line of the log, or the state of a Trainer, cannot be read; what is shown is made of the rest.",
        "put the file back as the run wrote it where its figures are needed",
    ),
    "HF954": Code(
        "the log of a run is too large to be read",
        "error",
        "It is read into the memory as a whole, and a curve of so many points shows no more than one of fewer.",
        "raise train.logging_steps in the next run",
    ),
    "HF955": Code(
        "the log of a run is large",
        "warning",
        "It takes some seconds to be read and drawn, in which nothing else is shown.",
        "raise train.logging_steps in the next run",
    ),
    "HF956": Code(
        "scores cannot be recorded in the report of the run",
        "error",
        "They belong into the report of a finished run, beside what it measured itself, which nothing replaces.",
        "leave --record out, or record them under another name",
    ),
    "HF957": Code(
        "decision.json of a classifier cannot be used",
        "error",
        "It says from which probability on a label is given: with a wrong one the model would decide otherwise than "
        "it was measured.",
        "put it back as the run wrote it, or remove it: labels are then those of the largest probability",
    ),
    "HF961": Code(
        "rows could not be labeled or answered",
        "error",
        "They cannot be read, lack the text that the model is asked, or ask for more than it takes; the messages "
        "before this one name each by its line.",
        "correct them as those messages say, and have them labeled or answered again",
    ),
    "HF962": Code(
        "options of sampling have no effect at temperature 0",
        "warning",
        "Always the likeliest token is taken, so that there is nothing to choose from.",
        "leave them out, or raise --temperature",
    ),
}
