"""The commands by name: where each lives, and its one line of help. Nothing is imported until a command runs."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """`target` is "module:attribute"; `help` is the line that the parent's --help shows."""

    target: str
    help: str


COMMANDS: dict[str, Entry] = {
    "init": Entry("gpumod.cli.init:init", "Make this machine (or a simulated one) ready."),
    "status": Entry("gpumod.cli.status:status", "What runs now, and the VRAM of each GPU."),
    "switch": Entry("gpumod.cli.switch:switch", "Switch the machine to a mode."),
    "simulate": Entry("gpumod.cli.simulate:simulate", "Show whether services fit together, without starting any."),
    "free": Entry("gpumod.cli.free:free", "Make room on a GPU, for a command or for a while."),
    "watch": Entry("gpumod.cli.keep:watch", "Bring the mode up after a boot, and keep it."),
    "mode": Entry("gpumod.cli.mode:mode", "Named sets of services."),
    "service": Entry("gpumod.cli.service:service", "Define, start, stop, sleep and wake services."),
    "template": Entry("gpumod.cli.template:template", "What systemd units are made of."),
    "ps": Entry("gpumod.cli.status:ps", "Processes on the GPUs, ours and foreign."),
    "preset": Entry("gpumod.cli.preset:preset", "Ready-made services and modes."),
    "export": Entry("gpumod.cli.box:export", "Print all definitions and settings as one YAML document."),
    "diff": Entry("gpumod.cli.box:diff", "What `gpumod apply` would change."),
    "apply": Entry("gpumod.cli.box:apply", "Make the definitions what one YAML document says."),
    "import": Entry("gpumod.cli.importing:importing", "Services from what another manager runs."),
    "history": Entry("gpumod.cli.history:history", "Runs, events and simulations of the past."),
    "recover": Entry("gpumod.cli.recover:recover", "Close a run that was left half-way."),
    "settings": Entry("gpumod.cli.settings:settings", "Show and change settings."),
    "doctor": Entry("gpumod.cli.doctor:doctor", "Check this machine and say what is wrong."),
    "plugins": Entry("gpumod.cli.plugins:plugins", "Plugins that were found; write and check your own."),
    "completion": Entry("gpumod.cli.completion:completion", "Print the completion script of a shell."),
    "demo": Entry("gpumod.cli.demo:demo", "A guided tour on a simulated card."),
}
