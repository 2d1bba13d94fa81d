"""Files of rows, this machine and a model -> a run file that runs as it stands: `hf-finetune new`.

make          the order of the steps
roles         which of the files are for training, validation and test
columns       what the first rows are: format, fields under other names, task
contents      what their values are: few or many, text or numbers, in which languages
rows          all rows: counts, repeats, lengths, labels, groups
lengths       in tokens, of a sample, under the tokenizer and chat template of a model
machine       cores, memory and accelerator
models        a model by its configuration, no weights; what is on the disk
model_choice  the one of these that a run starts from
memory        what a step takes, by a formula
rules         learning rates, batches, epochs and sizes, each with its source
choices       the settings of a run, with the reason for each
sections      those of data, model and evaluation
write         them as commented YAML
"""
