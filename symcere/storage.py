"""A folder that all machines see: a path, or a URI that pyarrow knows (``s3://…``, ``gs://…``).

A URI's settings stay behind what is appended to it: ``s3://bucket/x?endpoint_override=HOST:PORT&scheme=http``.
"""

import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcere.errors import UserError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

Address = Path | str


def remote(address: Address) -> bool:
    """Whether it is a URI rather than a file's path."""
    return "://" in str(address)


def absolute(address: str) -> str:
    """A path as processes in other folders find it; a URI is so already."""
    return address if remote(address) else str(Path(address).expanduser().absolute())


def within(folder: Address, *names: str) -> str:
    """The address of a file in a folder.

    >>> within("s3://bucket/x/?scheme=http", "run", "checkpoint.pt")
    's3://bucket/x/run/checkpoint.pt?scheme=http'
    """
    place, mark, settings = _split(folder)
    return "/".join([place.rstrip("/"), *names]) + mark + settings


def parent(address: Address) -> str:
    """The address of the folder that holds it."""
    place, mark, settings = _split(address)
    return place.rpartition("/")[0] + mark + settings


def _split(address: Address) -> tuple[str, str, str]:
    return str(address).partition("?") if remote(address) else (str(address), "", "")


@contextmanager
def opened(address: Address, patient: bool = True) -> Iterator[tuple["FileSystem", str]]:
    """The file system behind an address, and the path on it.

    Args:
        patient: try again for minutes where a server does not answer, as pyarrow does; else for some seconds.

    Raises:
        UserError: what the storage says within the block.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, LocalFileSystem

    try:
        if not remote(address):
            yield LocalFileSystem(), str(Path(address).absolute())
            return
        system, path = FileSystem.from_uri(str(address))
        yield system if patient else _impatient(system), path.rstrip("/")
    except (OSError, ArrowException) as error:
        raise UserError(f"Cannot use the storage {address}: {_told(error)} {_advice(str(address))}") from error


def _impatient(system: "FileSystem") -> "FileSystem":
    if system.type_name != "s3":
        return system
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    _, (settings,) = system.__reduce__()  # what pyarrow makes it from again in another process
    tries = AwsStandardS3RetryStrategy(max_attempts=2)
    return S3FileSystem(**{**settings, "retry_strategy": tries, "connect_timeout": 5, "request_timeout": 5})


def _told(error: BaseException) -> str:
    told = " ".join(str(error).split())[:400]
    return told if told.endswith(".") else f"{told}."


def _advice(address: str) -> str:
    if address.startswith("s3://"):
        return (
            "Does the bucket exist, and may this machine write to it (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
            "profile, or the machine's role)? AWS_ENDPOINT_URL names a server that is not Amazon's. `symcere doctor "
            "--storage` asks all nodes."
        )
    return "Check its address and this machine's rights or credentials; `symcere doctor --storage` asks all nodes."


def put(address: Address, data: Any, patient: bool = True) -> None:
    """Writes a file whole or not at all; the one before stays until then.

    Args:
        data: what has a buffer (bytes, a memoryview).
        patient: see :func:`opened`.
    """
    with opened(address, patient) as (system, path), ThreadPoolExecutor(1) as thread:
        # In a thread of its own, since Ctrl-C is raised in the main one: closing what it cut short would store that.
        thread.submit(_put, system, path, data).result()


def _put(system: "FileSystem", path: str, data: Any) -> None:
    system.create_dir(path.rpartition("/")[0], recursive=True)
    if system.type_name == "s3":  # an object appears when it is whole, and none above 5 GB can be renamed
        with system.open_output_stream(path) as stream:
            stream.write(data)
        return
    with system.open_output_stream(f"{path}.part") as stream:
        stream.write(data)
    system.move(f"{path}.part", path)


def get(address: Address, patient: bool = True) -> bytes:
    """A file's content; ``patient`` as in :func:`opened`."""
    with opened(address, patient) as (system, path), system.open_input_stream(path) as stream:
        return stream.read()


def exists(address: Address) -> bool:
    """Whether there is a file.

    Raises:
        UserError: the storage does not answer.
    """
    if not remote(address):
        return Path(address).is_file()
    from pyarrow.fs import FileType

    with opened(address) as (system, path):
        return system.get_file_info(path).type == FileType.File


def remove(folder: Address) -> None:
    """Removes a folder and what is in it, if it is there and can be."""
    with contextlib.suppress(UserError), opened(folder) as (system, path):
        system.delete_dir(path)


def check(folder: Address) -> None:
    """Asks for all that a run will need, before it begins.

    Raises:
        UserError: a file cannot be written there and read again.
    """
    with opened(folder, patient=False) as (system, path):
        mark = f"{path}/.check-{secrets.token_hex(4)}"
        _put(system, mark, b"symcere")
        with system.open_input_stream(mark) as stream:
            same = stream.read() == b"symcere"
        with contextlib.suppress(OSError):  # who may not delete may still train
            system.delete_file(mark)
    if not same:
        raise UserError(f"The storage {folder} gives back something else than was written there. Use another one.")
