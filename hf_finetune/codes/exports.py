"""HF97x: exports."""

from __future__ import annotations

from hf_finetune.codes.code import Code

EXPORTS: dict[str, Code] = {
    "HF971": Code(
        "the export is not the model that was trained",
        "error",
        "It was opened in its own runtime and asked the same rows, and its logits, its loss or its answers are others "
        "than the tolerance allows: what was measured of the run would not hold for it. Nothing was kept.",
        "allow more with --tolerance where the figures are good enough for you; in float32 please report it",
    ),
    "HF972": Code(
        "the target cannot hold this model",
        "error",
        "A runtime knows some architectures, settings and vocabularies, and none but these: another one would be "
        "written as something that it is not.",
        "name another target, or export another model",
    ),
    "HF973": Code(
        "an ONNX graph has other inputs and outputs than a model's",
        "error",
        "A language model has a key-value cache that goes in and out, and a classifier gives logits; this graph was "
        "made for something else.",
        "export the model with `hf-finetune export --to onnx`",
    ),
    "HF974": Code(
        "8 bits give less than they are for",
        "warning",
        "Weights in 8 bits are to be smaller and faster. Small models have most of their size elsewhere, and not every "
        "processor multiplies 8 bits faster than 32.",
        "use the export in float32 where size or speed is not what you need",
    ),
    "HF975": Code(
        "a published architecture that other programs compute otherwise",
        "warning",
        "Normalized queries and keys with an ungated squared ReLU are an Apertus to transformers, which reads the name "
        "of the activation. Elsewhere that architecture has xIELU alone: vLLM refuses the folder, and llama.cpp needs "
        "parameters of xIELU that it has not.",
        "train with model.scratch.preset: llama-like where other programs are to serve the model",
    ),
    "HF976": Code(
        "an export answers most rows otherwise than the run",
        "warning",
        "Weights of fewer bits, or what they are multiplied with, are rounded. The mean loss is as near to that as "
        "the tolerance asks, and yet where two tokens are nearly as likely the other one may come, from which on an "
        "answer is another one. With little training, or few rows, that is most of them.",
        "look at its answers, and export in more bits where they are not good enough",
    ),
    "HF977": Code(
        "a file of an export is not what the export wrote",
        "error",
        "Every file of an export was compared with the run as it was written, and its sha256 stands in export.json. "
        "Of a file that was damaged on its way, or changed, nothing is known: the model may answer nonsense, or the "
        "program that runs it fails in words of its own.",
        "copy the folder again, or export the model again; where you have changed the file yourself, take export.json "
        "out of the folder",
    ),
    "HF978": Code(
        "a program that proves an export does not run",
        "error",
        "What was written of a model is opened in llama.cpp, and the template that Ollama will render is rendered by "
        "Go. Where one of them does not run, nothing says that the export is the model that was trained: it is not "
        "kept.",
        "see what the program says; of a file that llama.cpp does not load, please report it",
    ),
    "HF979": Code(
        "a conversation becomes another prompt in the export",
        "error",
        "A model answers as it was trained where it is asked as it was trained. The chat template of the run and what "
        "the target makes of it were rendered on twenty conversations, and one of them differs, from the place on that "
        "the message shows. Nothing was kept.",
        "export for another target, or train with another data.chat_template",
    ),
}
