"""`python -m services.secrets FOLDER [SHARES]`: create random passwords for a compose deployment, one file each.

The files have the names that the settings expect (`fitserve_root_key`, ...). `SHARES` gets a folder for each kind of
container with the files that it needs, to be mounted as its `/run/secrets`; only this command sees `FOLDER`. The first
key is printed only once. Secrets that exist already are left unchanged.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

from fitserve.ids import new_id

URLS = ("fitserve_database_url", "fitserve_redis_url")
SHARES = {
    "postgres": ("postgres_password",),
    "redis": ("redis_users.acl",),
    "processes": URLS,
    "api": (*URLS, "fitserve_root_key"),  # keeps the hash of the first key in the database
}


def create_secrets(folder: Path) -> str | None:
    """Write the secrets and return the first key; None if they exist already."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "fitserve_root_key").exists():
        return None
    postgres, redis = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    token = f"{new_id('key')}.{secrets.token_urlsafe(32)}"
    hashed = hashlib.sha256(redis.encode()).hexdigest()
    files = {
        "postgres_password": postgres,
        "redis_users.acl": f"user default off\nuser fitserve on #{hashed} ~* &* +@all -@admin -@dangerous +info\n"
        "user health on nopass -@all +ping\n",
        "fitserve_database_url": f"postgresql+psycopg://fitserve:{postgres}@postgres:5432/fitserve",
        "fitserve_redis_url": f"redis://fitserve:{redis}@redis:6379/0",
        "fitserve_root_key": token,  # last, because its existence means that the folder is complete
    }
    for name, text in files.items():
        write_secret(folder / name, text, 0o444)  # only containers that mount a folder see it
    return token


def share_secrets(folder: Path, shares: Path) -> None:
    """Copy to each folder of `shares` what its containers need, and remove what they no longer need."""
    for share, names in SHARES.items():
        (shares / share).mkdir(parents=True, exist_ok=True)
        for name in names:
            write_secret(shares / share / name, (folder / name).read_text(), 0o444)
        for path in (shares / share).iterdir():
            if path.name not in names:
                path.unlink()


def write_secret(path: Path, text: str, mode: int) -> None:
    """Write a file atomically and durably; nobody else can read it before it has its mode."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(mode)
    temporary.replace(path)


def main() -> None:
    token = create_secrets(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        share_secrets(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"first key (shown only once): {token}" if token else "The secrets exist already.")


if __name__ == "__main__":
    main()
