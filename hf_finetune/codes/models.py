"""HF5xx: models and tokenizers."""

from __future__ import annotations

from hf_finetune.codes.code import Code

MODELS: dict[str, Code] = {
    "HF501": Code(
        "a file of the model is damaged or cut short",
        "error",
        "A copy that was interrupted, or changed on its way, holds other weights or settings than those that were "
        "published, or none that can be read.",
        "copy or download the file again",
    ),
    "HF502": Code(
        "a file of the model holds more than that of any model",
        "error",
        "Libraries take minutes, or all of the memory, for such a file: it is damaged, or was made to do that.",
        "copy the model's folder again, or use another model",
    ),
    "HF503": Code(
        "sizes in the model's files do not fit its weights",
        "error",
        "A model of these sizes would be another one than is stored, with layers drawn at random, or would take all"
        " of the memory before anything is read.",
        "correct the number in a copy of the model, or copy the model's folder again",
    ),
    "HF504": Code(
        "a value in the model's files that cannot be used",
        "error",
        "It is of another type than the libraries read, out of all bounds, missing or unknown, or contradicts another "
        "one. Most of them fail on it in the middle of a run, or when the trained model is to be saved.",
        "correct the key that the message names in a copy of the model, or copy the model's folder again",
    ),
    "HF505": Code(
        "weights in a form that cannot be computed with",
        "error",
        "They are whole numbers where the model computes with others, are quantized in a way that is not known "
        "here, or are said to be quantized and are not. Each library fails of that in its own way, some at the "
        "first step alone.",
        "install what the message names, correct quantization_config in a copy of the model, or use a copy that is "
        "not quantized",
    ),
    "HF506": Code(
        "weights that are not safetensors",
        "error",
        "A pickle can run any code on the machine that opens it, and no other format is checked before it is loaded.",
        "name a revision that has safetensors, or convert the weights on a machine where nothing can be lost",
    ),
    "HF507": Code(
        "a model that would run code of its repository",
        "error",
        "Such code does on this machine whatever its author likes; it is never run here.",
        "use a model that transformers knows by itself",
    ),
    "HF508": Code(
        "the model's files lead to files that are not its own",
        "error",
        "A model from elsewhere could so read any file of this machine, which may then end up in what is saved or "
        "pushed, or have other files loaded than those that were checked.",
        "use a copy of the model that has all of its files in one folder, under their usual names",
    ),
    "HF509": Code(
        "the model's files changed while the run was prepared",
        "error",
        "What was checked is not what was loaded, and the record of the run would name other files than it used.",
        "begin again when nothing writes into the folder any more",
    ),
    "HF511": Code(
        "a damaged download is fetched again",
        "warning",
        "The cache holds a file that is cut short, or is not the one that was published. It is replaced and the run"
        " goes on.",
        "nothing has to be done; where it comes back, look after the disk and the network",
    ),
    "HF512": Code(
        "the model's generation settings contradict themselves",
        "warning",
        "They set values that have no effect, such as a temperature without sampling. transformers does not save such "
        "a file, so that it is mended here as the message says.",
        "nothing has to be done; correct generation_config.json where the model was meant to answer in another way",
    ),
    "HF513": Code(
        "the model gives no finite numbers",
        "error",
        "A NaN or infinite number in one weight makes nonsense of all that the model computes, and a loss or score "
        "of it means nothing.",
        "copy the model again or name another one; of a model that you have trained, lower train.learning_rate",
    ),
    "HF514": Code(
        "what was saved is not what is in memory",
        "error",
        "The saved files were loaded again, and answer otherwise than the model that they were made of.",
        "do not use the folder; look after the disk, save again, and report it where it comes back",
    ),
    "HF521": Code(
        "the model cannot be loaded",
        "error",
        "There is no model under this name that transformers can read, or that this machine can reach.",
        "name a folder with config.json and model.safetensors, or a Hub id that is cached or can be reached",
    ),
    "HF522": Code(
        "an adapter where a whole model is needed",
        "error",
        "An adapter is a change to a model; taken for the model itself, its base would be loaded with the adapter "
        "on it without anybody having asked for that.",
        "merge the adapter with `hf-finetune merge`, and name the merged model",
    ),
    "HF523": Code(
        "the model is not a language model",
        "error",
        "An encoder sees the tokens that it should predict, and a classifier has no words to answer with: the loss "
        "of such a run falls, and the model writes nonsense.",
        "name a model that writes text, such as a Llama or a Qwen, or use the recipe or command for classifiers",
    ),
    "HF524": Code(
        "the model is not a text classifier",
        "error",
        "Its head would be drawn at random, and its labels would be chance.",
        "name a folder that the classification recipe has written, or a classifier of the Hub",
    ),
    "HF525": Code(
        "an architecture that cannot classify text",
        "error",
        "There is no classifier for it in transformers, one without a linear layer at its end, or one whose answer to "
        "a text changes with the texts beside it.",
        "name a model of another architecture",
    ),
    "HF526": Code(
        "only a part of the model reads text",
        "error",
        "The parts for images or sounds would be kept in memory and saved, and no text would ever train them.",
        "name a model of text alone",
    ),
    "HF527": Code(
        "weights of the model are missing, or have no place in it",
        "error",
        "What is missing is drawn at random, and what has no place is left out: the model that is trained would be "
        "another one than is stored.",
        "name a folder that holds the whole model, or correct its config.json in a copy",
    ),
    "HF531": Code(
        "the folder is not a LoRA adapter",
        "error",
        "Only the adapters of LoRA can be loaded, trained on and merged here, and this is none of them.",
        "name a folder that the LoRA recipe has written",
    ),
    "HF532": Code(
        "the base of an adapter cannot be found or loaded",
        "error",
        "An adapter is nothing without the model that it was trained on, and another model in its place would give "
        "answers that nobody has trained.",
        "say where the base is now with --base-path, or with model.path in a run file",
    ),
    "HF533": Code(
        "nothing says which model this one was trained from",
        "error",
        "An adapter is nothing without its base, and before and after are compared only where both are known: a guess "
        "would be some other model.",
        "name the model that it was trained from with --base-path",
    ),
    "HF534": Code(
        "a base is named for a whole model",
        "error",
        "Only an adapter is put on a base; here the base would be passed over in silence.",
        "leave --base-path out, or name the adapter",
    ),
    "HF535": Code(
        "an adapter on weights that are stored nowhere",
        "error",
        "An adapter is loaded over its base, and random weights that were never saved cannot be made again.",
        "train and save the model first, and name its folder in model.path",
    ),
    "HF536": Code(
        "the adapter does not fit its base",
        "error",
        "It was trained on another model, or on other weights of this one: it would load with parts left out, or "
        "answer at random.",
        "name the base that it was trained on",
    ),
    "HF537": Code(
        "an adapter lacks weights that its base lacks, too",
        "error",
        "The head of a classifier is trained with its adapter, and without it would be drawn at random each time.",
        "train the adapter again with all that is new in lora.modules_to_save",
    ),
    "HF538": Code(
        "the adapter changes nothing",
        "error",
        "The model answers with it exactly as without it: it was never trained, or was saved without what was. A "
        "score of it is one of its base.",
        "name another folder, or a checkpoint that was trained",
    ),
    "HF539": Code(
        "a checkpoint of an adapter that has changed its base",
        "error",
        "PiSSA and OLoRA begin by changing the weights of the base, and a checkpoint holds only what was trained "
        "since: on the base as it is stored it computes something else.",
        "resume the run from the checkpoint, or name the folder of the finished run",
    ),
    "HF541": Code(
        "a label that the model does not have",
        "error",
        "The model has one output for each of its labels, and none that could stand for this one.",
        "map the labels of the rows to those of the model with data.labels, or take the rows out",
    ),
    "HF542": Code(
        "the model's head is for other labels",
        "error",
        "The head has learned which output is which label; trained on others it would begin with wrong answers, and"
        " a new one would throw away what it knows.",
        "name the base model, set model.new_head: true for a new head, or say with data.labels which labels mean "
        "the same",
    ),
    "HF543": Code(
        "the thresholds cannot be stored in the model's head",
        "warning",
        "The head has no bias to hold them: `hf-finetune predict` uses them, and other programs, such as "
        "transformers' pipeline, decide without them.",
        "predict with hf-finetune, or apply the thresholds of decision.json yourself",
    ),
    "HF551": Code(
        "no tokenizer can be loaded",
        "error",
        "There is none under this name, it has no vocabulary, or it has no fast implementation, without which it is"
        " not known which characters a token stands for, and so not which are trained.",
        "copy the tokenizer's files again, or name a folder with a tokenizer.json or a Hub id in model.tokenizer",
    ),
    "HF552": Code(
        "a tokenizer with a size or length beyond that of any other",
        "error",
        "A short text would take all of the memory or hours of time, or the library ends the whole process as it "
        "loads.",
        "correct the key that the message names in a copy of the model, or copy the model's folder again",
    ),
    "HF553": Code(
        "patterns of the tokenizer that may take time without end",
        "error",
        "Such a pattern may go back and forth in a text, in time that multiplies with each character: one row could "
        "stop a run or a server for good.",
        "use another copy of the model, or another model",
    ),
    "HF554": Code(
        "the tokenizer has no end token, or none to pad with",
        "error",
        "Without an end token a model never learns to stop; without one to pad with, texts of several lengths make "
        "no batch.",
        "set `eos_token` or `pad_token` in its tokenizer_config.json to a token of its vocabulary",
    ),
    "HF555": Code(
        "the tokenizer is not the one of the model",
        "error",
        "The model would read other words than are written, or lack the tokens that it has learned around a text: "
        "it answers, and the answers are worse without any sign of why.",
        "use the tokenizer files that were saved with the model",
    ),
    "HF556": Code(
        "a tokenizer to train, or to begin with, is not described",
        "error",
        "A model from scratch needs a tokenizer, and one that is trained needs rows of text and a size.",
        "name a folder or a Hub id in model.tokenizer, or write `train: {kind: bpe, vocab_size: 4096}` with rows of"
        " `text`",
    ),
    "HF557": Code(
        "the trained vocabulary has another size than was asked for",
        "warning",
        "Where it is too small, characters that are left out all become one unknown token; where the text has too "
        "few words, the model is only smaller than planned.",
        "raise vocab_size where characters are lost, and give more text, or lower it, where the text is short",
    ),
    "HF561": Code(
        "a GGUF file that cannot be read",
        "error",
        "It is damaged, cut off, a part of several files, or of a version or a kind that transformers does not read.",
        "do as the message says: copy it again, join its parts, or take the original's own folder or Hub id",
    ),
    "HF562": Code(
        "a GGUF file that would become another model",
        "error",
        "Loading it would leave out some of its weights or settings, or draw some at random, and what comes out "
        "would not be the model of the file.",
        "take the original's own folder or Hub id, or another conversion of it",
    ),
    "HF563": Code(
        "no model that can be made here",
        "error",
        "The command makes the few models that come in packages of PyPI, and converts GGUF files; for anything else"
        " it is not clear what was meant.",
        "write one of the names that the message lists, or a .gguf file; a folder or a Hub id goes into model.path "
        "as it is",
    ),
    "HF564": Code(
        "a package is not the one that was published",
        "error",
        "Its content is known by its sha256 and its members, and what came is something else; nothing of it is used.",
        "see which index pip asks with `python -m pip config list`, remove the file from the cache, and try again",
    ),
    "HF565": Code(
        "a package cannot be downloaded",
        "error",
        "Python has no pip, or pip does not get the file, and without it there is no model to make.",
        "try the command of the message alone, or put the file into the cache by hand",
    ),
    "HF571": Code(
        "sizes of a model from scratch that make no model",
        "error",
        "The parts of a model have to fit, such as heads of attention that share its width evenly; no such model "
        "can be built.",
        "change the field that the message names, or another one of model.scratch",
    ),
    "HF581": Code(
        "LoRA names what the model does not have",
        "error",
        "A name that matches nothing is passed over by peft where another one matches, and less is trained than was"
        " asked for.",
        "take one of the names or numbers that the message lists",
    ),
    "HF582": Code(
        "a LoRA setting that would have no effect on this model",
        "error",
        "The run would differ from what its file says, and nothing in its results would show that.",
        "leave it out, or name what it applies to",
    ),
    "HF583": Code(
        "an adapter that the precision of its base does not allow",
        "error",
        "Quantized weights have no gradients, and a change that is smaller than the last digit of a 16-bit number "
        "is lost: what is asked for would be rounded away, or cannot be computed.",
        "load the base in another precision (model.dtype, model.load_in_4bit), or choose another kind of adapter",
    ),
    "HF584": Code(
        "LoRA settings that cannot be carried out",
        "error",
        "The library peft refuses them, or they need a pass over data, or a rank, that this recipe and this model "
        "do not have.",
        "change the setting as the message says; the reasons are in peft's LoraConfig",
    ),
    "HF585": Code(
        "an adapter, or a part of one, that would not be trained",
        "error",
        "The run would take its time, and this part of the model would be at its end what it was before.",
        "name other modules in lora.target_modules, and an output head in lora.modules_to_save",
    ),
    "HF586": Code(
        "new tokens need whole rows of the embedding or the head",
        "error",
        "The tokens that a chat template adds have no weights yet, and these are trained as whole rows: not through"
        " LoRA, and not beside a bias.",
        "name the module in lora.modules_to_save instead",
    ),
    "HF587": Code(
        "LoRA on the routers of a mixture of experts",
        "warning",
        "Routers choose the experts of each token; training them may send most tokens to a few of these.",
        "leave them out with lora.exclude_modules, or name the modules that you want in lora.target_modules",
    ),
    "HF588": Code(
        "a pattern or a name of modules that is not taken",
        "error",
        "A pattern can make matching go on without end, and names of modules have letters, digits, _ and dots alone.",
        "write names of modules, or a pattern without lookaround and backreferences",
    ),
    "HF589": Code(
        "a setting contradicts the adapter that is trained on",
        "error",
        "An adapter keeps the settings, the bits and the tokens with which it was made: others would be passed "
        "over, or make another adapter of it.",
        "leave the setting out, or train a new adapter",
    ),
}
