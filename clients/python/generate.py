"""Generates what follows from the protocol files: dataclasses, the methods of both clients, the descriptors.

Run while the package is built (build_hook.py). By hand, `python generate.py FOLDER` writes the same files for reading.

Why generated, and not at run time: type checkers and editors see every field and method with its documentation, and a
field that is added to the protocol is in the package with the next build, declared nowhere else. Why dataclasses, and
not protoc's classes: those are bound to one range of versions of the protobuf runtime, which an application often has
pinned already, register in a pool that the application's own stubs may share, and know neither `datetime` nor words
for enums. The wire form is read and written through the descriptors by whatever runtime is there.

Rules, each from the type of a field alone, so that nothing is declared twice:

- an instant is a `datetime`, a span of time a `timedelta`, an enum a class of words (as in job files);
- what may be absent is `Optional`; a field called like a keyword has an underscore behind it (`from_`);
- an answer without fields is None; one with a `next_page_token` gets a second method that asks for all pages;
- a stream that the server sends gets a method, unless client.py has one that survives a lost node (`RESUMED`).
"""

import keyword
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

HERE = Path(__file__).parent
PACKAGE = "chronarch.v1"
WIDTH = 96

# Requests whose first field of these is given without its name: `client.get_job("nightly")`.
LEADING = ("jobs", "name", "run_id", "worker", "node_id")
# Streams with a method of their own in client.py and aio.py.
RESUMED = {"WatchRun", "ReadOutput"}

Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    Field.TYPE_STRING: ("str", '""'),
    Field.TYPE_BYTES: ("bytes", 'b""'),
    Field.TYPE_BOOL: ("bool", "False"),
    Field.TYPE_DOUBLE: ("float", "0.0"),
    Field.TYPE_FLOAT: ("float", "0.0"),
    **dict.fromkeys(
        (
            Field.TYPE_INT32,
            Field.TYPE_INT64,
            Field.TYPE_UINT32,
            Field.TYPE_UINT64,
            Field.TYPE_SINT32,
            Field.TYPE_SINT64,
        ),
        ("int", "0"),
    ),
}
WELL_KNOWN = {
    ".google.protobuf.Timestamp": ("datetime.datetime", "Union[datetime.datetime, str]"),
    ".google.protobuf.Duration": ("datetime.timedelta", "Union[datetime.timedelta, str]"),
}


def protocol_folder() -> Path:
    """Where the protocol files are: in a source distribution beside this file, in the repository at its top.

    Raises:
        SystemExit: neither is there.
    """
    for folder in (HERE / "proto", HERE.parent.parent / "proto"):
        if (folder / "chronarch" / "v1").is_dir():
            return folder
    raise SystemExit(f"no protocol files at {HERE / 'proto'} or {HERE.parent.parent / 'proto'}")


def compile_protocol(folder: Path) -> descriptor_pb2.FileDescriptorSet:
    """All protocol files with what they import, comments included."""
    files = sorted(str(path.relative_to(folder)) for path in (folder / "chronarch/v1").glob("*.proto"))
    included = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "set"
        options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={out}"]
        failed = protoc.main(["protoc", f"-I{folder}", f"-I{included}", *options, *files])
        if failed:
            raise SystemExit(f"the protocol files in {folder} do not compile")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


class Protocol:
    """The messages, enums and services of the package, with the comments on each."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        self.messages: Dict[str, Any] = {}
        self.enums: Dict[str, Any] = {}
        self.services: Dict[str, Any] = {}
        self._comments: Dict[Tuple[str, ...], str] = {}
        for file in files.file:
            if file.package != PACKAGE:
                continue
            self.messages.update((message.name, message) for message in file.message_type)
            self.enums.update((enum.name, enum) for enum in file.enum_type)
            self.services.update((service.name, service) for service in file.service)
            self._note_comments(file)

    def _note_comments(self, file: Any) -> None:
        tops = {4: file.message_type, 5: file.enum_type, 6: file.service}
        for location in file.source_code_info.location:
            text = location.leading_comments.strip() or location.trailing_comments.strip()
            path = list(location.path)
            if not text or len(path) not in (2, 4) or path[0] not in tops:
                continue
            owner = tops[path[0]][path[1]]
            name: Tuple[str, ...] = (owner.name,)
            if len(path) == 4:
                if path[2] != 2:
                    continue
                parts = getattr(owner, {4: "field", 5: "value", 6: "method"}[path[0]])
                name = (owner.name, parts[path[3]].name)
            self._comments[name] = "\n".join(line.strip() for line in text.splitlines())

    def comment(self, *name: str) -> str:
        return self._comments.get(name, "")

    def map_entry(self, message: Any, field: Any) -> Optional[Any]:
        for nested in message.nested_type:
            if nested.options.map_entry and field.type_name == f".{PACKAGE}.{message.name}.{nested.name}":
                return nested
        return None

    def words(self, enum: Any) -> Iterator[Tuple[str, str]]:
        """Name and word of each value: `GAP_RUN_AT_END` of `Gap` is `RUN_AT_END`, "run_at_end"."""
        prefix = "".join(f"_{c}" if c.isupper() and at else c for at, c in enumerate(enum.name)).upper() + "_"
        for value in enum.value:
            name = value.name[len(prefix) :] if value.name.startswith(prefix) else value.name
            yield name, "" if value.number == 0 else name.lower()


def python_name(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name


def indented(text: str, by: int) -> List[str]:
    """The lines of a comment, wrapped, paragraphs and lists kept."""
    lines: List[str] = []
    for paragraph in text.replace("\\", "\\\\").replace('"""', "'''").split("\n"):
        lines += textwrap.wrap(paragraph, WIDTH - by) or [""]
    return [" " * by + line if line else "" for line in lines]


def docstring(text: str, by: int) -> List[str]:
    if not text:
        return []
    lines = indented(text, by)
    lines[0] = " " * by + '"""' + lines[0].strip()
    if len(lines) == 1 and len(lines[0]) + 3 <= WIDTH and not lines[0].endswith('"'):
        return [lines[0] + '"""']
    return [*lines, " " * by + '"""']


# Models.


def model_type(protocol: Protocol, message: Any, field: Any) -> Tuple[str, str]:
    """The annotation of a field, and its default."""
    entry = protocol.map_entry(message, field)
    if entry is not None:
        key, value = (plain_type(part)[0] for part in entry.field)
        return f"Dict[{key}, {value}]", "dataclasses.field(default_factory=dict)"
    kind, default = plain_type(field)
    if field.label == Field.LABEL_REPEATED:
        return f"List[{kind}]", "dataclasses.field(default_factory=list)"
    if field.proto3_optional or field.type == Field.TYPE_MESSAGE:
        return f"Optional[{kind}]", "None"
    return kind, default


def plain_type(field: Any) -> Tuple[str, str]:
    name = field.type_name.rsplit(".", 1)[-1]
    if field.type == Field.TYPE_ENUM:
        return name, f"{name}.UNSPECIFIED"
    if field.type == Field.TYPE_MESSAGE:
        return WELL_KNOWN.get(field.type_name, (f'"{name}"',))[0], "None"
    return SCALARS[field.type]


def models(protocol: Protocol) -> str:
    lines = [
        '"""What the API takes and answers. Generated from the protocol files: do not edit."""',
        "",
        "import dataclasses",
        "import datetime",
        "from typing import Dict, List, Optional",
        "",
        "from ._model import Model, Word",
    ]
    for name, enum in sorted(protocol.enums.items()):
        lines += ["", "", f"class {name}(Word):"]
        lines += docstring(protocol.comment(name) or f"The words of {name}.", 4)
        lines.append("")
        for (member, word), value in zip(protocol.words(enum), enum.value):
            lines.append(f'    {member} = "{word}"')
            lines += docstring(protocol.comment(name, value.name), 4)
    for name, message in sorted(protocol.messages.items()):
        lines += ["", "", "@dataclasses.dataclass", f"class {name}(Model):"]
        lines += docstring(protocol.comment(name) or f"The message {name}.", 4)
        lines.append("")
        for field in message.field:
            kind, default = model_type(protocol, message, field)
            lines.append(f"    {python_name(field.name)}: {kind} = {default}")
            lines += docstring(protocol.comment(name, field.name), 4)
    return "\n".join(lines) + "\n"


# Calls.


def argument_type(protocol: Protocol, message: Any, field: Any) -> str:
    entry = protocol.map_entry(message, field)
    if entry is not None:
        return f"Mapping[str, {SCALARS[entry.field[1].type][0]}]"
    name = field.type_name.rsplit(".", 1)[-1]
    if field.type == Field.TYPE_ENUM:
        kind = f"Union[models.{name}, str]"
    elif field.type == Field.TYPE_MESSAGE:
        kind = WELL_KNOWN.get(field.type_name, ("", f"Union[models.{name}, Mapping[str, Any]]"))[1]
    else:
        kind = SCALARS[field.type][0]
    if field.label == Field.LABEL_REPEATED:
        return f"Sequence[{kind}]"
    return kind


def argument_default(protocol: Protocol, message: Any, field: Any) -> str:
    if protocol.map_entry(message, field) is not None or field.proto3_optional:
        return "None"
    if field.label == Field.LABEL_REPEATED:
        return "()"
    return SCALARS[field.type][1] if field.type in SCALARS else "None"


def snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and at else c.lower() for at, c in enumerate(name))


class Signature:
    """The parameters of one method, as they are declared and as they are handed on."""

    def __init__(self, protocol: Protocol, request: Any, leave_out: Tuple[str, ...] = ()) -> None:
        # What would lead is a filter there, and one that is left out is no filter.
        lists = request.name == "CancelRunsRequest" or any(field.name == "page_token" for field in request.field)
        fields = [field for field in request.field if field.name not in leave_out]
        leading = [field for name in LEADING for field in fields if field.name == name][: 0 if lists else 1]
        self.declared, self.handed, self.docs = ["self"], [], []
        for field in leading:
            self.declared.append(f"{python_name(field.name)}: {argument_type(protocol, request, field)}")
        rest = [field for field in fields if field not in leading]
        self.declared.append("*")
        for field in rest:
            kind, default = argument_type(protocol, request, field), argument_default(protocol, request, field)
            kind = f"Optional[{kind}]" if default == "None" else kind
            self.declared.append(f"{python_name(field.name)}: {kind} = {default}")
        self.declared.append("timeout: Optional[float] = None")
        for field in [*leading, *rest]:
            self.handed.append(f'"{field.name}": {python_name(field.name)}')
            comment = " ".join(protocol.comment(request.name, field.name).split())
            if comment:
                self.docs.append(f"{python_name(field.name)}: {comment}")
        self.docs.append("timeout: seconds for the whole call; the client's where it is None.")

    def lines(self, name: str, answer: str, asynchronous: bool) -> List[str]:
        word = "async def" if asynchronous else "def"
        return [f"    {word} {name}(", *(f"        {one}," for one in self.declared), f"    ) -> {answer}:"]

    def documented(self, text: str) -> List[str]:
        lines = docstring(text, 8)
        lines[-1] = lines[-1].rstrip('"').rstrip() if lines[-1].strip() != '"""' else ""
        lines = [line for at, line in enumerate(lines) if line or at < len(lines) - 1]
        lines += ["", "        Args:"]
        for doc in self.docs:
            wrapped = textwrap.wrap(doc.replace("\\", "\\\\"), WIDTH - 16)
            lines += [" " * 12 + wrapped[0], *(" " * 16 + line for line in wrapped[1:])]
        lines += ["", "        Raises:", "            ChronarchError: there is no answer, or a refusal.", '        """']
        return lines


def calls(protocol: Protocol, asynchronous: bool) -> str:
    word, iterator = ("async def", "AsyncIterator") if asynchronous else ("def", "Iterator")
    lines = [
        '"""One method for each call of the API. Generated from the protocol files: do not edit."""',
        "",
        "import abc",
        "import datetime",
        f"from typing import Any, Dict, {iterator}, Mapping, Optional, Sequence, Union, cast",
        "",
        "from . import models",
        "",
        "",
        "class Calls(abc.ABC):",
        '    """The calls; the client below it carries them out."""',
        "",
        "    @abc.abstractmethod",
        f"    {word} _unary(self, service: str, method: str, fields: Dict[str, Any], timeout: Optional[float]) "
        "-> Any: ...",
        "",
        "    @abc.abstractmethod",
        "    def _stream(self, service: str, method: str, fields: Dict[str, Any], timeout: Optional[float]) "
        f"-> {iterator}[Any]: ...",
    ]
    for service in (protocol.services[name] for name in sorted(protocol.services)):
        for method in service.method:
            if not method.client_streaming and method.name not in RESUMED:
                lines += one_call(protocol, service, method, asynchronous)
    return "\n".join(lines) + "\n"


def one_call(protocol: Protocol, service: Any, method: Any, asynchronous: bool) -> List[str]:
    request = protocol.messages[method.input_type.rsplit(".", 1)[-1]]
    answer = protocol.messages[method.output_type.rsplit(".", 1)[-1]]
    text = protocol.comment(service.name, method.name) or f"{method.name} of {service.name}."
    signature = Signature(protocol, request)
    handed = "{" + ", ".join(signature.handed) + "}"
    call = f'("{service.name}", "{method.name}", {handed}, timeout)'
    awaited = "await " if asynchronous else ""
    lines = [""]
    if method.server_streaming:
        iterator = "AsyncIterator" if asynchronous else "Iterator"
        lines += signature.lines(snake(method.name), f"{iterator}[models.{answer.name}]", False)
        return [*lines, *signature.documented(text), f"        return self._stream{call}"]
    if not answer.field:
        lines += signature.lines(snake(method.name), "None", asynchronous)
        return [*lines, *signature.documented(text), f"        {awaited}self._unary{call}"]
    lines += signature.lines(snake(method.name), f"models.{answer.name}", asynchronous)
    lines += [*signature.documented(text), f"        return cast(models.{answer.name}, {awaited}self._unary{call})"]
    if any(field.name == "next_page_token" for field in answer.field):
        lines += all_pages(protocol, method, request, answer, asynchronous)
    return lines


def all_pages(protocol: Protocol, method: Any, request: Any, answer: Any, asynchronous: bool) -> List[str]:
    """`iter_jobs` beside `list_jobs`."""
    items = next(field for field in answer.field if field.label == Field.LABEL_REPEATED)
    kind = plain_type(items)[0].strip('"')
    signature = Signature(protocol, request, ("page_size", "page_token"))
    name = snake(method.name)
    iterator = "AsyncIterator" if asynchronous else "Iterator"
    handed = [f"{part.split(chr(34))[1]}" for part in signature.handed]
    arguments = ", ".join(f"{python_name(one)}={python_name(one)}" for one in handed)
    paging = ("page_token=token, page_size=PAGE_SIZE, timeout=timeout", "await " if asynchronous else "")
    text = f"As `{name}`, page after page until there is no further one."
    return [
        "",
        *signature.lines(name.replace("list_", "iter_", 1), f"{iterator}[models.{kind}]", asynchronous),
        *signature.documented(text),
        '        token = ""',
        "        while True:",
        f"            page = {paging[1]}self.{name}({arguments}{', ' if arguments else ''}{paging[0]})",
        f"            for item in page.{items.name}:",
        "                yield item",
        "            token = page.next_page_token",
        "            if not token:",
        "                return",
    ]


def write(folder: Path) -> List[str]:
    """Writes the generated files and returns their names."""
    files = compile_protocol(protocol_folder())
    protocol = Protocol(files)
    for file in files.file:
        file.ClearField("source_code_info")
    paging = "\n# Items asked for at a time by the `iter_…` methods; the API serves up to 1,000.\nPAGE_SIZE = 500\n"
    made = {
        "models.py": models(protocol),
        "_calls.py": calls(protocol, False).replace("from . import models\n", "from . import models\n" + paging, 1),
        "_aio_calls.py": calls(protocol, True).replace("from . import models\n", "from . import models\n" + paging, 1),
    }
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "_schema.bin").write_bytes(files.SerializeToString(deterministic=True))
    return [*made, "_schema.bin"]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python generate.py FOLDER")
    write(Path(sys.argv[1]))
