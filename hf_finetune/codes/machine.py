"""HF7xx: the machine and its folders.

HF70x files and folders, HF71x packages, processes and what a run writes on its way, HF72x several
processes and machines.
"""

from __future__ import annotations

from hf_finetune.codes.code import Code

MACHINE: dict[str, Code] = {
    "HF701": Code(
        "a file or folder cannot be written",
        "error",
        "Permissions, a disk that is mounted read-only or a limit to the size of files stand in the way. What a "
        "command computes would be lost, so it stops there.",
        "allow writing there, or name another folder; where the size of files is limited, raise that (ulimit -f)",
    ),
    "HF702": Code(
        "there is no space left, or less than is needed",
        "error",
        "A checkpoint or model that is cut short cannot be loaded, so that nothing is kept of what does not fit as a "
        "whole; a run that would fill the disk is refused before it begins.",
        "make room, or name a folder on another disk; train.save_total_limit says how many checkpoints a run keeps",
    ),
    "HF703": Code(
        "there is not enough memory",
        "error",
        "What was asked for does not fit into the memory of the machine or of its GPU, and cannot go on halfway. "
        "Checkpoints that were saved before are whole.",
        "do what the message proposes: mostly smaller batches, shorter rows, or weights that take less memory",
    ),
    "HF704": Code(
        "another process is using the folder of the run",
        "error",
        "Two processes that write into one folder would mix their checkpoints and reports, so the second writes "
        "nothing.",
        "wait until the process that the message names has ended, or name another output_dir",
    ),
    "HF705": Code(
        "what is there already is not written over",
        "error",
        "It may be the only copy of what is in it, so nothing of yours is replaced unless you ask for it.",
        "name another file or folder, move away what is there, or add --overwrite where the message offers it",
    ),
    "HF706": Code(
        "no file or folder can be made under that name",
        "error",
        "Something of another kind has the name already, or is on the way to it: a folder in place of a file, a file "
        "in place of a folder, a device, or a link that leads nowhere. None of these is removed for an output.",
        "name a file where a file is to be written, and a folder that does not exist yet where a folder is",
    ),
    "HF707": Code(
        "the output would take the place of what is read",
        "error",
        "The rows or the weights would be gone before they were read to their end, and the result with them.",
        "name another file or folder for the output",
    ),
    "HF708": Code(
        "a page or model card of yours is left as it is",
        "warning",
        "It has no mark of a page that was made here: somebody wrote it, and it stays. It does not show the new "
        "figures.",
        "move it elsewhere to have a new one made, or write the page to another file (`hf-finetune report --output`)",
    ),
    "HF709": Code(
        "the folder of the run has vanished while the run went on",
        "error",
        "What was saved in it is gone from there, and what would be written now could not be gone on from.",
        "put it back, if it was moved or its disk was taken away, and begin again",
    ),
    "HF711": Code(
        "an optional package is not installed",
        "error",
        "What was asked for is done by that package, and nothing else is done quietly in its place.",
        "install it as the message says, or leave out what needs it",
    ),
    "HF712": Code(
        "an installed package is of a version that is not supported",
        "error",
        "Other versions of a library fail in the middle of a run, or compute something else without a word.",
        "install a version in the range that the message names; constraints.txt has those that are tested",
    ),
    "HF713": Code(
        "another process of the run, or its machine, is gone",
        "error",
        "Processes that train together wait for each other in every step, so that none of them goes on alone. One has "
        "ended, or has not answered within `train.ddp_timeout`, or its machine has not for half a minute.",
        "look at what the process that ended first has said, or at the machine and its network; then type the same "
        "command again on all machines, which --max-restarts does by itself",
    ),
    "HF714": Code(
        "a process was ended by a signal",
        "error",
        "It could not say why. SIGKILL mostly comes from the system, for a process that takes too much memory; "
        "SIGSEGV and SIGABRT come from a fault in the compiled code of a library.",
        "after SIGKILL try smaller batches or shorter rows; else look at the lines before it in the log",
    ),
    "HF715": Code(
        "the code of a library gave up on a model or a text",
        "error",
        "Compiled code, often that of a tokenizer, met what it cannot work off, such as a pattern that tries for too "
        "long on some texts. It ends with an error of its own, behind which nothing can be computed.",
        "use another model, or another tokenizer",
    ),
    "HF716": Code(
        "standard output cannot be written",
        "error",
        "Mostly the disk is full to which it was sent. What was only to be shown is lost; files that the command has "
        "written are there.",
        "make room, or send the output elsewhere",
    ),
    "HF717": Code(
        "the progress display has failed",
        "warning",
        "It only shows a run: training goes on without it, and all figures are in the log and in the report.",
        "follow the run with `hf-finetune watch` on its folder",
    ),
    "HF718": Code(
        "the log of the run cannot be written",
        "warning",
        "Training goes on and keeps the lines; they are written as soon as they can be, and are lost where the run "
        "ends before.",
        "make room, or allow writing there",
    ),
    "HF719": Code(
        "an old checkpoint was removed to make room",
        "warning",
        "There was no space for a newer one. The last checkpoint that is whole, and the best, are never removed for "
        "it.",
        "make room, or set train.save_total_limit lower",
    ),
    "HF721": Code(
        "a launch file is of a kind or version that is not run",
        "error",
        "Runs are launched by accelerate on machines of one's own, with DDP, FSDP2 or DeepSpeed. FSDP1 splits a model "
        "in another way, with which nothing here is tested, and so do tensor, context and sequence parallelism.",
        "take a file of accelerate_configs, or change the key that the message names",
    ),
    "HF722": Code(
        "the port is not free at which the processes are to meet",
        "error",
        "Another run, or another program, listens there. Processes of two runs at one port wait for each other until a "
        "timeout.",
        "name another port by --main-process-port, the same on every machine",
    ),
    "HF723": Code(
        "the machines of a launch do not fit together",
        "error",
        "Each machine has its own number from 0, all know the address of the first, and the processes are shared out "
        "evenly; else they wait for a machine that never comes.",
        "give what the message names on the command line, or launch by srun, which sets it",
    ),
    "HF724": Code(
        "Slurm has started another number of tasks than the launch needs",
        "error",
        "Each task would train the whole run and write into the same folder, or one would wait for machines on which "
        "nothing was started. The launcher starts the processes of a machine itself: one task a machine.",
        "type the line that the message shows",
    ),
    "HF725": Code(
        "the processes of a run were not started for the same run",
        "error",
        "Each machine reads a run file and has libraries of its own. With other settings or versions the processes "
        "would train different models and average them, without a sign of it in the loss.",
        "copy the run file and install the same versions on every machine",
    ),
    "HF726": Code(
        "the run folder is not shared by the machines of the run",
        "error",
        "The first process writes checkpoints and results there, and the others read them: to go on, to load the best "
        "one, to compare what was saved.",
        "name a folder on a file system that all machines have",
    ),
    "HF727": Code(
        "a run is started again by itself",
        "warning",
        "A process or a machine of it was lost, and `--max-restarts` says how often it may go on by itself: from the "
        "newest checkpoint that verifies, on the machines that are left, with the same rows in each step. A mistake, a "
        "full disk or a lack of memory that the run has seen itself is not tried again.",
        "nothing has to be done; where all restarts are used, look at what the lines before it say, and type the same "
        "command again",
    ),
    "HF728": Code(
        "the machines of a run have not met for a restart",
        "error",
        "After one was lost the others meet at the first machine, within three quarters of a minute, and where it is "
        "gone at the next, if they had met before. It has gone on without this one, or nobody knows where the next one "
        "is, or a machine has ended for a reason that a restart would meet again.",
        "look at the first machine, and at what the others have said; then type the same command again on all machines",
    ),
    "HF729": Code(
        "the processes of a run have different files of a model",
        "error",
        "Each machine reads the model from a folder of its own, of one name. Split over processes or not, what was "
        "trained would be of one machine's weights and another's tokens.",
        "give each machine the same folders, and leave them alone while a run starts",
    ),
}
