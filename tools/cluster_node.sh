#!/usr/bin/env bash
# What every machine of a cluster needs, run on each by `ray up` (setup_commands of cluster*.yaml) from ~/raybc-src.
# Running it again does nothing, so a node that comes back is ready at once.
#
#   RAYBC_STORAGE  a folder that all machines see (NFS, EFS, Filestore)       RAYBC_PYTHON  python3.11 or newer
#   RAYBC_EXTRAS   which simulators, e.g. all or robosuite,mujoco
set -euo pipefail

storage=${RAYBC_STORAGE:?the folder that all machines see}
python=${RAYBC_PYTHON:-python3}
extras=${RAYBC_EXTRAS:-all}
code=$HOME/raybc-src  # not ~/raybc: a folder of that name in the working folder hides the package from `python -m`
env=$HOME/raybc-env

say() { echo "raybc: $*"; }

# A node whose disk is not the shared one would lose what it writes: it must not join.
mkdir -p "$storage" 2>/dev/null || true
probe=$storage/.raybc-$(hostname)-$$
if ! (echo probe >"$probe") 2>/dev/null; then
    say "$storage: not writable on $(hostname); mount the shared disk there, or correct RAYBC_STORAGE" >&2
    exit 1
fi
rm -f "$probe"

# Offscreen GL for simulators with pictures: EGL, and OSMesa where EGL has no driver.
if ! ldconfig -p | grep -q libEGL.so.1; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        libegl1 libgl1-mesa-dri libosmesa6 || say "no offscreen GL on $(hostname): no videos, no tasks of pictures"
fi

# The project at the versions that were tested together; again only when they change.
wanted=$(cat "$code/pyproject.toml" "$code/constraints.txt" <(echo "$extras") | sha256sum | cut -c1-64)
if [ "$(cat "$HOME/.raybc-installed" 2>/dev/null)" != "$wanted" ]; then
    [ -x "$env/bin/python" ] || "$python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check -c "$code/constraints.txt" -e "$code[$extras]"
    echo "$wanted" >"$HOME/.raybc-installed"
fi

# Ray's start commands and `ray exec` read ~/.bashrc. Demonstrations that a sweep makes must be where all see them.
touch "$HOME/.bashrc"
sed -i '/# raybc$/d' "$HOME/.bashrc"
{
    echo "export PATH=$env/bin:\$PATH RAYBC_HOME=$storage/cache # raybc"
    echo "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 # raybc"
    cat "$HOME/.bashrc"
} >"$HOME/.bashrc.raybc"
mv "$HOME/.bashrc.raybc" "$HOME/.bashrc"

# rsync keeps the mode of the file it copied; whoever can read the token can run code here.
chmod 700 "$HOME/.ray"
chmod 600 "$HOME/.ray/auth_token"
