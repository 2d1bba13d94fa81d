"""HF87x: serving."""

from __future__ import annotations

from hf_finetune.codes.code import Code

SERVING: dict[str, Code] = {
    "HF871": Code(
        "the server cannot listen at its address",
        "error",
        "Another program listens at this port, or the address is none of this machine. That is looked at before a "
        "model is loaded, which takes minutes.",
        "name another port by --port, or an address of this machine by --host",
    ),
    "HF872": Code(
        "a server that others can reach has no key",
        "error",
        "Whoever reaches a server could use the model and take up the machine. On 127.0.0.1 only this machine does.",
        "put a key into a file, named by --api-key-file, or into HF_FINETUNE_API_KEY; or leave --host out",
    ),
    "HF873": Code(
        "the key of a server cannot be used",
        "error",
        "A short key is guessed, and one with blanks or line breaks does not arrive as it is in a header.",
        "make one: openssl rand -hex 32 > key.txt",
    ),
    "HF874": Code(
        "adapters cannot be served over one base",
        "error",
        "Adapters are switched over one model in memory, which has one precision, one vocabulary, and weights that no "
        "adapter changes.",
        "serve them apart, each at a port of its own, or merge one first",
    ),
    "HF875": Code(
        "a filter of a server cannot be used",
        "error",
        "A filter is a list with a word or phrase a line, or a classifier with the labels that it refuses. One that "
        "refuses nothing would only seem to protect.",
        "write --filter WORDS.txt, or --filter RUN=LABEL with a label of that classifier",
    ),
    "HF876": Code(
        "a model does not generate step by step as it does at once",
        "error",
        "The server generates a token of each answer at every step. Before it lets anybody in it compares a few steps "
        "with `hf-finetune generate`, and serves no model for which they differ.",
        "use `hf-finetune generate` for it, and report the architecture",
    ),
    "HF877": Code(
        "the file of votes holds something else",
        "error",
        "Votes are added to what is there, and all of them count. Of other lines nobody knows what they say.",
        "name a new file, or one that this command has written",
    ),
    "HF878": Code(
        "other servers do not know the architecture",
        "error",
        "A ScratchGPT is a model of this project: vLLM and TGI load published architectures alone.",
        "export it as one of those first, or serve it here",
    ),
}
