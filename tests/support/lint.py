"""A reader of source text for what the package must not do: run what a file holds, draw
unaddressed, listen, validate by assert. Names are followed through the file's own imports, so that
`from torch import load as l` hides nothing."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

Found = tuple[str, int, str]  # rule, line, what stands there

MODULES = {
    "code that a file holds": (
        "pickle cPickle _pickle dill cloudpickle joblib shelve marshal yaml ruamel runpy code"
    ),
    "network": (
        "socket socketserver ssl urllib urllib3 http requests httpx aiohttp ftplib smtplib xmlrpc"
        " webbrowser"
    ),
    "process": "subprocess pty ctypes cffi",
    "global generator": "random secrets",
}
NAMES = {
    "code that a file holds": (
        "torch.load torch.save torch.jit.load torch.hub torch.package torch.serialization"
        " numpy.lib.format.read_array pandas.read_pickle builtins.eval builtins.exec"
        " builtins.compile builtins.__import__"
    ),
    "import by name": (
        "importlib.import_module importlib.__import__ importlib.util.module_from_spec"
        " importlib.reload"
    ),
    "process": "os.system os.popen os.execv os.execve os.execvp os.spawnv os.spawnl os.posix_spawn",
    "network": "torch.distributed.init_process_group torch.utils.model_zoo",
    "global generator": (
        "torch.manual_seed torch.seed torch.random torch.set_rng_state torch.cuda.manual_seed "
        "torch.cuda.manual_seed_all torch.default_generator numpy.random"
    ),
}
DRAWS = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "randn_like",
    "rand_like",
    "normal",
    "bernoulli",
    "multinomial",
}
FILLS = {
    "bernoulli_",
    "uniform_",
    "normal_",
    "exponential_",
    "random_",
    "log_normal_",
    "cauchy_",
    "geometric_",
}
UNPACKS = {"extractall", "extract", "unpack_archive"}
BUILTINS = {name for name in dir(builtins) if not name[0].isupper()}


def findings(source: str) -> list[Found]:
    """Every rule that the source breaks, with its line and what stands there."""
    tree = ast.parse(source)
    names = bound(tree)
    return sorted({found for node in ast.walk(tree) for found in broken(node, names)})


def bound(tree: ast.AST) -> dict[str, str]:
    """What each imported name of a file means, by its full name."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """The dotted name that an expression stands for, as far as the imports tell; "" for anything
    else.
    """
    if isinstance(node, ast.Name):
        return names.get(node.id, f"builtins.{node.id}" if node.id in BUILTINS else node.id)
    if isinstance(node, ast.Attribute):
        inner = full_name(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def within(name: str, listed: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in listed.split())


def broken(node: ast.AST, names: dict[str, str]) -> Iterator[Found]:
    """The rules that one node breaks."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
        whole = (
            [f"{node.module}.{a.name}" for a in node.names]
            if isinstance(node, ast.ImportFrom)
            else modules
        )
        for rule, listed in MODULES.items():
            yield from ((rule, node.lineno, name) for name in modules if within(name, listed))
        for (
            rule,
            listed,
        ) in NAMES.items():  # where it is used: `import_module` itself may be imported
            yield from (
                (rule, node.lineno, n)
                for n in whole
                if within(n, listed) and rule != "import by name"
            )
    elif isinstance(node, ast.Name | ast.Attribute):
        name = full_name(node, names)
        for rule, listed in NAMES.items():
            if within(name, listed):
                yield rule, node.lineno, name
        if isinstance(node, ast.Attribute) and node.attr in UNPACKS:
            yield "unpacks an archive", node.lineno, ast.unparse(node)
    elif isinstance(node, ast.Assert) and not narrows(node.test):
        yield "assert", node.lineno, ast.unparse(node.test)
    elif isinstance(node, ast.Call):
        yield from called(node, full_name(node.func, names), names)


def called(node: ast.Call, name: str, names: dict[str, str]) -> Iterator[Found]:
    """The rules that a call breaks by its arguments."""
    given = {k.arg: k.value for k in node.keywords}
    told, line = ast.unparse(node)[:80], node.lineno
    last = name.rpartition(".")[2] if name else getattr(node.func, "attr", "")
    if name in ("numpy.load", "numpy.lib.npyio.load") and not is_constant(
        given.get("allow_pickle"), False
    ):
        yield "code that a file holds", line, told
    if "shell" in given and not is_constant(given["shell"], False):
        yield "process", line, told
    draws = name.startswith("torch.") and last in DRAWS
    fills = last in FILLS and not name.startswith(("nn.init.", "torch.nn.init."))
    if (draws or fills) and "generator" not in given:
        yield "global generator", line, told
    if name == "builtins.getattr" and len(node.args) > 1:
        where, attribute = full_name(node.args[0], names), node.args[1]
        if isinstance(attribute, ast.Constant):
            hidden = ast.Attribute(value=node.args[0], attr=str(attribute.value), lineno=line)
            yield from broken(hidden, names)
        elif isinstance(node.args[0], ast.Call) and full_name(node.args[0].func, names).endswith(
            "import_module"
        ):
            yield "import by name", line, told
        elif (
            isinstance(node.args[0], ast.Name)
            and node.args[0].id in names
            and where.rpartition(".")[2].islower()
        ):
            yield "attribute of a module by name", line, told


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def narrows(test: ast.AST) -> bool:
    """Whether an assertion only tells the type checker: x is not None, isinstance(x, T)."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(narrows(part) for part in test.values)
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot) and is_constant(test.comparators[0], None)
    return isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"
