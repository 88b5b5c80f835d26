#!/bin/sh
# Stand-ins for base images that cannot be pulled: a Debian from debootstrap, tagged with the official names.
# They test our Dockerfile, wiring, environment and health checks, but not the official images' entrypoints.
# Needs root, debootstrap, podman and buildah. Usage: standins.sh WORK_FOLDER
set -eu
work=$1
mkdir -p "$work"
mkdir -p "$work/debs"
make_root() { # folder, packages, release
  [ -e "$1/.done" ] && return
  rm -rf "$1"
  debootstrap --variant=minbase --cache-dir="$work/debs" --include="$2" "${3:-bookworm}" "$1"
  rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
  # This machine's certificates, for pip, uv and npm inside the builds.
  cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
  mkdir -p "$1/etc/uv"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$1/etc/pip.conf"
  printf 'native-tls = true\n' > "$1/etc/uv/uv.toml"
  printf 'cafile=/etc/ssl/certs/ca-certificates.crt\nupdate-notifier=false\n' > "$1/etc/npmrc"
  cp "$1/etc/npmrc" "$1/root/.npmrc"
  touch "$1/.done"
}
# Our images use a small one without the files that Debian's slim images omit, so that their sizes are meaningful.
make_root "$work/python" ca-certificates,python3,python3-venv
rm -rf "$work"/python/usr/share/doc/* "$work"/python/usr/share/man/* "$work"/python/usr/share/locale/* "$work"/python/usr/share/info/*
make_root "$work/rootfs" ca-certificates,binutils,python3,python3-venv,postgresql-15,redis-server,redis-tools,prometheus,procps
# The upstreams' `resolve` needs nginx 1.27.3, which Debian's stable release does not have.
make_root "$work/nginx" ca-certificates,python3,nginx-light,procps sid
root=$work/rootfs

cat > "$root/usr/local/bin/postgres-entrypoint" <<'SH'
#!/bin/sh
# The essentials of what the official image does with these variables.
set -eu
data=/var/lib/postgresql/data
bin=/usr/lib/postgresql/15/bin
mkdir -p "$data" /var/run/postgresql && chown -R postgres "$data" /var/run/postgresql
if [ ! -s "$data/PG_VERSION" ]; then
  runuser -u postgres -- $bin/initdb -D "$data" --username="$POSTGRES_USER" --auth-host=scram-sha-256 --auth-local=trust \
    --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS >/dev/null
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  runuser -u postgres -- $bin/pg_ctl -D "$data" -o "-c listen_addresses=''" -w start >/dev/null
  runuser -u postgres -- $bin/createdb -U "$POSTGRES_USER" "$POSTGRES_DB" || true
  runuser -u postgres -- $bin/pg_ctl -D "$data" -m fast -w stop >/dev/null
fi
shift # the word `postgres`
exec runuser -u postgres -- $bin/postgres -D "$data" -c listen_addresses='*' "$@"
SH
chmod +x "$root/usr/local/bin/postgres-entrypoint"
ln -sf /usr/lib/postgresql/15/bin/pg_isready "$root/usr/local/bin/pg_isready"
cat > "$work/nginx/usr/local/bin/nginx-entrypoint" <<'PY'
#!/usr/bin/python3
"""Fill in templates from the environment and resolvers from resolv.conf, as the official image does."""
import os, pathlib, re, subprocess, sys

if os.environ.get("NGINX_ENTRYPOINT_LOCAL_RESOLVERS"):
    found = re.findall(r"(?m)^nameserver\s+(\S+)", pathlib.Path("/etc/resolv.conf").read_text())
    os.environ["NGINX_LOCAL_RESOLVERS"] = " ".join(f"[{one}]" if ":" in one else one for one in found)
for script in sorted(pathlib.Path("/docker-entrypoint.d").glob("*.envsh")):
    source = f'. {script} >&2; printf %s "$NGINX_LOCAL_RESOLVERS"'
    os.environ["NGINX_LOCAL_RESOLVERS"] = subprocess.check_output(["sh", "-c", source], text=True)
for template in pathlib.Path("/etc/nginx/templates").glob("*.template"):
    text = re.sub(r"\$\{(\w+)\}", lambda m: os.environ.get(m[1], m[0]), template.read_text())
    pathlib.Path("/etc/nginx/conf.d", template.stem).write_text(text)
os.execvp(sys.argv[1], sys.argv[1:])
PY
chmod +x "$work/nginx/usr/local/bin/nginx-entrypoint"
# The official image has only conf.d; Debian's also has a default site.
rm -f "$work/nginx/etc/nginx/sites-enabled/default"

import_root() { # folder, image
  tar -C "$1" --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* --exclude=./.done -c . | podman import --quiet - "$2"
}
import_root "$root" localhost/debian-standin
import_root "$work/python" localhost/python-standin
import_root "$work/nginx" localhost/nginx-standin
tag() { # official name, the stand-in, then the lines of its Dockerfile
  name=$1; from=$2; shift 2
  printf 'FROM localhost/%s\n' "$from" > "$work/Dockerfile"
  printf '%s\n' "$@" >> "$work/Dockerfile"
  buildah bud --format docker --runtime runc --network host --quiet -t "$name" -f "$work/Dockerfile" "$work" >/dev/null
}
tag docker.io/library/python:3.12-slim-bookworm python-standin 'CMD ["python3"]'
tag docker.io/library/python:3.12-bookworm debian-standin 'CMD ["python3"]'
tag docker.io/library/postgres:17-bookworm debian-standin 'ENTRYPOINT ["postgres-entrypoint"]'
tag docker.io/library/redis:7-bookworm debian-standin 'CMD ["redis-server"]'
tag docker.io/library/nginx:1.28-bookworm nginx-standin 'RUN ln -sf /dev/stderr /var/log/nginx/error.log' 'ENTRYPOINT ["nginx-entrypoint"]' 'CMD ["nginx", "-g", "daemon off;"]'
tag docker.io/prom/prometheus:v3.5.0 debian-standin 'ENTRYPOINT ["prometheus"]'
# Node from this machine.
mkdir -p "$work/node/usr/bin" "$work/node/usr/lib/node_modules"
cp "$(command -v node)" "$work/node/usr/bin/node"
cp -r "$(dirname "$(readlink -f "$(command -v npm)")")/.." "$work/node/usr/lib/node_modules/npm" 2>/dev/null || true
printf 'FROM localhost/python-standin\nCOPY node/ /\nRUN ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/bin/npm && node --version && npm --version\n' > "$work/Dockerfile"
buildah bud --format docker --runtime runc --network host --quiet -t docker.io/library/node:22-bookworm-slim -f "$work/Dockerfile" "$work" >/dev/null
