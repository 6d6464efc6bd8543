"""Reads source text for what the package must not do, and for names that say nothing.

Forbidden: to run what a file holds, to draw from a global generator, to listen, to validate by
assert. Names are followed through the imports of a file, so that `from torch import load as l`
hides nothing.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

Finding = tuple[str, int, str]  # rule, line, text

MODULES = {
    "code that a file holds": (
        "pickle cPickle _pickle dill cloudpickle joblib shelve marshal yaml ruamel runpy code"
    ),
    "network": (
        "socket socketserver ssl urllib urllib3 http requests httpx aiohttp ftplib smtplib xmlrpc"
        " webbrowser uvicorn starlette asyncio"
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
        "torch.manual_seed torch.seed torch.random torch.set_rng_state torch.cuda.manual_seed"
        " torch.cuda.manual_seed_all torch.default_generator numpy.random"
    ),
}
DRAWS = "rand randn randint randperm randn_like rand_like normal bernoulli multinomial"
FILLS = "bernoulli_ uniform_ normal_ exponential_ random_ log_normal_ cauchy_ geometric_"
UNPACKS = {"extractall", "extract", "unpack_archive"}
BUILTINS = {name for name in dir(builtins) if not name[0].isupper()}

# Past participles say that something happened, not what a thing is: `found`, `told`, `kept`.
IRREGULAR = (
    "asked begun bought brought built caught chosen dealt done drawn driven fed felt forgotten"
    " found given gone got gotten grown heard held hidden hurt kept known laid lent lost made"
    " meant met paid said seen sent shaken shown sold spent spoken stolen stood taken taught"
    " thought thrown told torn understood wanted woken won worn written"
)
NO_PARTICIPLES = "bed embed feed indeed need red seed shed speed"


def findings(source: str) -> list[Finding]:
    """Every rule that the source breaks, with the line and its text."""
    tree = ast.parse(source)
    names = imported_names(tree)
    return sorted({finding for node in ast.walk(tree) for finding in check_node(node, names)})


def shadows(source: str) -> list[Finding]:
    """Variables of comprehensions that are named as something that the file imports or defines.

    Python 3.12.1 takes one for the other where a function uses both (UnboundLocalError).
    """
    tree = ast.parse(source)
    defined = (ast.FunctionDef, ast.ClassDef)
    names = {*imported_names(tree), *(one.name for one in tree.body if isinstance(one, defined))}
    return [
        ("a name twice", name.lineno, name.id)
        for node in ast.walk(tree)
        if isinstance(node, ast.comprehension)
        for name in ast.walk(node.target)
        if isinstance(name, ast.Name) and name.id in names
    ]


def participles(source: str) -> list[Finding]:
    """Every variable, argument, attribute or function named by a bare participle; not classes."""
    result = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, ast.FunctionDef):
            name = node.name
        else:
            continue
        if is_participle(name):
            result.append(("participle", node.lineno, name))
    return result


def is_participle(name: str) -> bool:
    """Whether a name is one word, and that a past participle."""
    word = name.strip("_")
    if "_" in word:
        return False
    regular = word.endswith("ed") and len(word) > 3 and word not in NO_PARTICIPLES.split()
    return regular or word in IRREGULAR.split()


def imported_names(tree: ast.AST) -> dict[str, str]:
    """The full name of each name that a file imports."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """The dotted name of an expression, as far as the imports tell; "" for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, f"builtins.{node.id}" if node.id in BUILTINS else node.id)
    if isinstance(node, ast.Attribute):
        inner = full_name(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def is_within(name: str, words: str) -> bool:
    """Whether a dotted name is one of the words, or lies inside one."""
    return any(name == word or name.startswith(f"{word}.") for word in words.split())


def is_set(node: ast.AST) -> bool:
    """Whether a value is given to that name, as to a field of a class."""
    return isinstance(node, ast.Name) and isinstance(getattr(node, "ctx", None), ast.Store)


def check_node(node: ast.AST, names: dict[str, str]) -> Iterator[Finding]:
    """The rules that one node breaks."""
    if isinstance(node, ast.Import):
        yield from check_import(node.lineno, [alias.name for alias in node.names], [])
    elif isinstance(node, ast.ImportFrom):
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from check_import(node.lineno, [node.module or ""], inside)
    elif isinstance(node, ast.Name | ast.Attribute) and not is_set(node):
        name = full_name(node, names)
        for rule, words in NAMES.items():
            if is_within(name, words):
                yield rule, node.lineno, name
        if isinstance(node, ast.Attribute) and node.attr in UNPACKS:
            yield "unpacks an archive", node.lineno, ast.unparse(node)
    elif isinstance(node, ast.Assert) and not narrows(node.test):
        yield "assert", node.lineno, ast.unparse(node.test)
    elif isinstance(node, ast.Call):
        yield from check_call(node, full_name(node.func, names), names)


def check_import(line: int, modules: list[str], inside: list[str]) -> Iterator[Finding]:
    """The rules that an import breaks by its modules or by names inside them."""
    for rule, words in MODULES.items():
        yield from ((rule, line, name) for name in modules if is_within(name, words))
    for rule, words in NAMES.items():
        if rule != "import by name":  # told where it is used: `import_module` may be imported
            yield from ((rule, line, name) for name in inside or modules if is_within(name, words))


def check_call(node: ast.Call, name: str, names: dict[str, str]) -> Iterator[Finding]:
    """The rules that a call breaks by its arguments."""
    options = {keyword.arg: keyword.value for keyword in node.keywords}
    text = ast.unparse(node)[:80]
    line = node.lineno
    last = name.rpartition(".")[2] if name else getattr(node.func, "attr", "")
    loads = name in ("numpy.load", "numpy.lib.npyio.load")
    if loads and not is_constant(options.get("allow_pickle"), False):
        yield "code that a file holds", line, text
    if "shell" in options and not is_constant(options["shell"], False):
        yield "process", line, text
    draws = name.startswith("torch.") and last in DRAWS.split()
    fills = last in FILLS.split() and not name.startswith(("nn.init.", "torch.nn.init."))
    if (draws or fills) and "generator" not in options:
        yield "global generator", line, text
    if name == "builtins.getattr" and len(node.args) > 1:
        yield from check_getattr(node, names)


def check_getattr(node: ast.Call, names: dict[str, str]) -> Iterator[Finding]:
    """The rules that `getattr(owner, attribute)` breaks, which hides what it asks for."""
    owner, attribute = node.args[:2]
    text = ast.unparse(node)[:80]
    is_module = full_name(owner, names).rpartition(".")[2].islower()
    if isinstance(attribute, ast.Constant):
        hidden = ast.Attribute(value=owner, attr=str(attribute.value), lineno=node.lineno)
        yield from check_node(hidden, names)
    elif isinstance(owner, ast.Call) and full_name(owner.func, names).endswith("import_module"):
        yield "import by name", node.lineno, text
    elif isinstance(owner, ast.Name) and owner.id in names and is_module:
        yield "attribute of a module by name", node.lineno, text


def is_constant(node: ast.AST | None, value: object) -> bool:
    """Whether an expression is that constant."""
    return isinstance(node, ast.Constant) and node.value is value


def narrows(test: ast.AST) -> bool:
    """Whether an assertion only tells the type checker: x is not None, isinstance(x, T)."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(narrows(part) for part in test.values)
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot) and is_constant(test.comparators[0], None)
    return isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"
