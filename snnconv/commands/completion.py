"""Shell completion of the command line: commands, groups and their options, settings, and paths after run= and resume=."""

import glob
from collections.abc import Sequence

from snnconv.commands import COMMANDS
from snnconv.runtime import configurations

SHELLS = {
    "bash": """_snnconv() {
    local IFS=$'\\n' line="${COMP_LINE:0:$COMP_POINT}"
    local word="${line##* }"
    COMPREPLY=($(snnconv --complete "${COMP_WORDS[1]}" "$word" 2>/dev/null))
    local prefix="${word%"${word##*[=:]}"}"
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}
complete -o nospace -o default -F _snnconv snnconv""",
    "zsh": "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n",
}
SHELLS["zsh"] += SHELLS["bash"]
FOLDERS = ("run", "resume")


def script(shell: str = "bash") -> str:
    """Shell code that enables the completion: eval "$(snnconv completion bash)"."""
    if shell not in SHELLS:
        raise SystemExit(f"snnconv completion {shell}: must be {' or '.join(SHELLS)}")
    return SHELLS[shell]


def complete(words: Sequence[str]) -> list[str]:
    """Possible completions of `words`: the command, and the typed part of an argument."""
    command, typed = words[0] if words else "", words[-1] if words else ""
    if command not in COMMANDS:
        return [name for name in COMMANDS if name.startswith(typed)]
    key, equals, value = typed.partition("=")
    if not equals:
        depth = typed.count(".")
        names = {name for name in configurations.dotted_keys() if name.count(".") <= depth}
        inner = {name.rpartition(".")[0] for name in configurations.dotted_keys() if name.count(".") == depth + 1}
        return sorted([f"{n}=" for n in names if n.startswith(typed)] + [f"{n}." for n in inner if n.startswith(typed)])
    if key in FOLDERS:
        return sorted(f"{key}={path}" for path in glob.glob(f"{glob.escape(value)}*/"))
    return [f"{key}={option}" for option in configurations.options(key) if option.startswith(value)]
