"""What the scripts for distributions share: fetching from a mirror, checking, unpacking, handing over.

Needs Python 3.8 and nothing from outside its standard library; other programs where a format asks for them (zstd, openssl,
gpgv, minisign). Whatever comes from the mirror is refused until its digest is right, and never named by what it says itself.
"""

import contextlib
import gzip
import hashlib
import http.client
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

INDEX_LIMIT = 64 << 20  # bytes: no index or list is larger
PACKAGE_LIMIT = 1 << 30  # bytes of a package or a root file system, as it is fetched
UNPACKED_LIMIT = 8 << 30  # bytes of it unpacked
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)


class Refused(Exception):
    """Why nothing was made: what failed, why, what to do."""


def say(text):
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)


def run(act, *args):
    """Runs the whole, and exits as a program does: 1 when it was refused, 130 when it was interrupted."""
    try:
        act(*args)
    except (Refused, OSError) as error:
        say(error)
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; nothing was made")
        sys.exit(130)


def options(parser, key_help):
    """What all verbs take."""
    parser.add_argument("--key", type=Path, metavar="FILE", help=key_help)
    parser.add_argument("--name", help="the name that it gets in banger")
    parser.add_argument("--to", type=Path, metavar="DIR", help="leave the files in this new folder and say the command that takes them")


def plain(text, what):
    """A part of a file's name: no separator, no leading dot."""
    if not PLAIN.fullmatch(text):
        raise Refused(f"{what} `{text}` is none: letters, digits and . _ + - are allowed")
    return text


class Mirror:
    """A folder of a web server."""

    def __init__(self, url):
        if not re.match(r"https?://[^/]", url):
            raise Refused(f"`{url}` is no mirror: give its http:// or https:// URL")
        self.url = url.rstrip("/")

    def fetch(self, path, to, limit=INDEX_LIMIT, size=None):
        """Fetches a file of at most `limit` bytes; of `size`, where that is known."""
        url = f"{self.url}/{path}"
        say(f"fetching {url}" + (f" ({size / 1048576:.1f} MiB)" if size else ""))
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, open(to, "xb") as file:
                promised = answer.headers.get("Content-Length")
                count = 0
                while piece := answer.read(1 << 20):
                    count += len(piece)
                    if count > (limit if size is None else size):
                        raise Refused(f"{url} is larger than {'the index says' if size is not None else f'{limit} bytes'}")
                    file.write(piece)
        except urllib.error.HTTPError as error:
            raise Refused(f"{url}: the mirror answers {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise Refused(f"{url} cannot be fetched: {getattr(error, 'reason', error)}") from None
        expected = size if size is not None else promised
        if expected is not None and count != int(expected):
            raise Refused(f"{url} broke off after {count} of {expected} bytes; try again")
        return to


def check(what, wanted, found):
    """Compares two digests."""
    if wanted != found:
        raise Refused(f"{what} is not what the mirror's index says: digest {found}, not {wanted}; another mirror may have the right one")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def tool(*argv, package):
    """Runs a program; its exit status tells whether a signature is right."""
    try:
        return subprocess.run([str(word) for word in argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE).returncode == 0
    except FileNotFoundError:
        raise Refused(f"`{argv[0]}` is not installed (Debian package {package})") from None


def rsa_verified(path, signature, key, algorithm):
    """Whether `signature` (a file) is that of the file by the key (PEM)."""
    if not key.is_file():
        raise Refused(f"there is no key {key}")
    return tool("openssl", "dgst", f"-{algorithm}", "-verify", key, "-signature", signature, path, package="openssl")


def unsigned(whose):
    say(f"WARNING: {whose} was not checked: no --key. Only digests were, which come from the same mirror")


@contextlib.contextmanager
def unpacked(path, of):
    """What is in a compressed file, to be read from front to end. What is broken in it is said of `of`."""
    with open(path, "rb") as file:
        magic = file.read(6)
    unpacker = None
    try:
        if magic[:4] == b"\x28\xb5\x2f\xfd":
            try:
                unpacker = subprocess.Popen(["zstd", "-dcq", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            except FileNotFoundError:
                raise Refused("`zstd` is not installed (Debian package zstd)") from None
            stream = unpacker.stdout
        elif magic == b"\xfd7zXZ\0":
            stream = lzma.open(path)
        else:
            stream = gzip.open(path)
        with stream:
            yield stream
            # What follows the last entry of a tar tells whether it is all there.
            after = 0
            while piece := stream.read(1 << 20):
                after += len(piece)
                if after > UNPACKED_LIMIT:
                    raise Refused(f"{of} does not end")
        if unpacker and unpacker.wait() != 0:
            raise EOFError("its compression is broken")
    except BROKEN as error:
        raise Refused(f"{of} cannot be unpacked: {error}") from None
    finally:
        if unpacker:
            unpacker.kill()
            unpacker.wait()


@contextlib.contextmanager
def archive(path, of):
    """A compressed tar, to be read from front to end."""
    with unpacked(path, of) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar


def safe(name, of):
    """The name inside of the tree that an archive gives an entry."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise Refused(f"{of} has an entry {name!r}, which would leave its tree")
    return "/".join(part for part in parts if part not in ("", "."))


def entries(tar, of):
    """Each entry with its safe name. Refuses what is unpacked to too much."""
    total = 0
    for member in tar:
        total += member.size
        if total > UNPACKED_LIMIT:
            raise Refused(f"{of} unpacks to more than {UNPACKED_LIMIT >> 30} GiB")
        if member.islnk():
            safe(member.linkname, of)
        yield safe(member.name, of), member


def member(path, name, of):
    """What is in one small file of an archive."""
    with archive(path, of) as tar:
        for found, entry in entries(tar, of):
            if found == name and entry.isreg():
                if entry.size > INDEX_LIMIT:
                    raise Refused(f"`{name}` in {of} is larger than {INDEX_LIMIT >> 20} MiB")
                return tar.extractfile(entry).read()
    raise Refused(f"{of} has no `{name}`")


def unpack_kernel(path, of, to):
    """Unpacks `boot/vmlinuz…` and `lib/modules/…` of a package. Only files and the folders that they need are made, so that
    no link leads anywhere. Gives the kernel's file and its modules' folder."""
    kernels, releases = [], set()
    with archive(path, of) as tar:
        for name, entry in entries(tar, of):
            inside = name[len("usr/"):] if name.startswith("usr/") else name
            is_kernel = re.fullmatch(r"boot/vmlinu[xz][^/]*|lib/modules/[^/]+/vmlinu[xz]", inside)
            if not is_kernel and not inside.startswith("lib/modules/") or entry.isdir() or entry.issym():
                continue
            if not entry.isreg():
                raise Refused(f"{of} has an entry {name!r} that is no regular file")
            target = to / ("vmlinuz" if is_kernel else inside)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as file:
                    shutil.copyfileobj(tar.extractfile(entry), file)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise Refused(f"{of} has {name!r} twice") from None
            if is_kernel:
                kernels.append(target)
            else:
                releases.add(inside.split("/")[2])
    if len(kernels) != 1 or len(releases) != 1:
        raise Refused(f"{of} is no kernel package: it has {len(kernels)} kernel files and modules for {len(releases)} releases")
    return kernels[0], to / "lib/modules" / releases.pop()


def layout(packed, of, to):
    """Makes an OCI layout of one layer from a compressed tar of a root file system."""
    blobs = to / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    with archive(packed, of) as tar:
        if not any([name for name, _ in entries(tar, of)]):
            raise Refused(f"{of} is empty")
    layer = to / "layer"
    with unpacked(packed, of) as stream, open(layer, "xb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    digest = sha256(layer)
    size = layer.stat().st_size
    layer.rename(blobs / digest)
    kind = "application/vnd.oci.image"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json", **blob(json.dumps(config).encode())},
        "layers": [{"mediaType": f"{kind}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}],
    }
    described = {"mediaType": f"{kind}.manifest.v1+json", **blob(json.dumps(manifest).encode())}
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (to / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (to / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))


@contextlib.contextmanager
def workplace(to):
    """A folder to work in and one for the result, which becomes `to` when all is well; without `to` both are gone afterwards."""
    if to and to.exists():
        raise Refused(f"{to} is there already; give a new folder")
    if not to and not shutil.which(banger()):
        raise Refused(f"there is no `{banger()}` to take it; say where it is with $BANGER, or give a folder with --to")
    beside = to.absolute().parent if to else None
    with tempfile.TemporaryDirectory(prefix=".mirror-", dir=beside) as work:
        result = Path(work) / "result"
        result.mkdir()
        yield Path(work), result
        if to:
            os.rename(result, to)


def banger():
    return os.environ.get("BANGER", "banger")


def hand_over(argv, result, to):
    """Gives the result to banger, or says how to."""
    if to:
        print(" ".join([banger(), *(str(word).replace(str(result), str(to)) for word in argv)]))
        return
    status = subprocess.run([banger(), *(str(word) for word in argv)]).returncode
    if status != 0:
        raise Refused(f"`{banger()} {argv[0]} {argv[1]}` failed")
