"""`python -m services.secrets FOLDER`: makes the passwords of a compose deployment once, at random, as files.

Each file is named as the settings expect it (`fitserve_root_key`, ...), so the folder is mounted as `/run/secrets`.
The first key is printed, this once. A folder that has them already is left as it is.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

from fitserve.ids import new_id


def make(folder: Path) -> str | None:
    """Writes the files that are missing; returns the first key where it was made now."""
    folder.mkdir(parents=True, exist_ok=True)
    postgres, redis = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    token = f"{new_id('key')}.{secrets.token_urlsafe(32)}"
    if (folder / "fitserve_root_key").exists():
        return None
    hashed = hashlib.sha256(redis.encode()).hexdigest()
    files = {
        "postgres_password": postgres,
        "redis_users.acl": f"user default off\nuser fitserve on #{hashed} ~* &* +@all -@admin -@dangerous +info\n"
        "user health on nopass -@all +ping\n",
        "fitserve_database_url": f"postgresql+psycopg://fitserve:{postgres}@postgres:5432/fitserve",
        "fitserve_redis_url": f"redis://fitserve:{redis}@redis:6379/0",
        "fitserve_root_key": token,  # last: the folder is whole when it is there
    }
    for name, text in files.items():
        write(folder / name, text)
    return token


def write(path: Path, text: str) -> None:
    """A file that is there whole or not at all. Its folder is mounted into the containers alone."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o444)
    temporary.replace(path)


def main() -> None:
    token = make(Path(sys.argv[1]))
    print(f"first key (shown this once): {token}" if token else "The secrets are there already.")


if __name__ == "__main__":
    main()
