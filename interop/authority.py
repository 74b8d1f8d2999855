"""An authority for the suites, and the certificates that it signs.

Owns calling openssl: the node's own `auth dev-certs` throws its authority's key away. It must not know what a
certificate is good for.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

CONFIG = """
[ca]
default_ca = here
[here]
database = {0}/index.txt
serial = {0}/serial
new_certs_dir = {0}
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Certificate:
    """Two files in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs what it is asked to."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir()
        (self.directory / "index.txt").touch()
        (self.directory / "serial").write_text("01\n")
        (self.directory / "ca.cnf").write_text(CONFIG.format(self.directory))
        self._count = 0
        self._key = self._new_key("ca")
        self.file = self.directory / "ca.pem"
        _openssl(
            "req", "-x509", "-new", "-key", self._key, "-subj", "/CN=an authority of the suites", "-days", "2",
            "-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign",
            "-out", self.file,
        )  # fmt: skip

    def sign(self, name, life=None):
        """A certificate for a DNS name; `life` is its first and last moment as `YYYYMMDDHHMMSSZ`, by default two days."""
        self._count += 1
        label = f"{self._count}"
        key, request = self._new_key(label), self.directory / f"{label}.csr"
        names = f"subjectAltName=DNS:{name},IP:127.0.0.1"
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-addext", names, "-out", request)
        out = self.directory / f"{label}.pem"
        days = ["-startdate", life[0], "-enddate", life[1]] if life else ["-days", "2"]
        _openssl(
            "ca", "-batch", "-notext", "-config", self.directory / "ca.cnf", "-cert", self.file,
            "-keyfile", self._key, "-in", request, "-out", out, *days,
        )  # fmt: skip
        return Certificate(out, key)

    def _new_key(self, label):
        key = self.directory / f"{label}-key.pem"
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        return key


def _openssl(*words):
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, check=False)
    assert done.returncode == 0, f"openssl {words[0]}: {done.stderr.decode(errors='replace')}"
