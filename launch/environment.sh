# Make or reuse the Python environment in .venv and activate it; sourced under `set -e` by quickstart.sh and tests/run.sh.
#
# MEGAS2S_VENV names another folder, or `active`: the environment that is active now, taken as it is (a container, conda).
# torch is installed first and by itself: a machine that has its own build of it (a local wheel, an extra index) decides
# which one; an open range would replace it by the newest.

environment() {
  local venv=${MEGAS2S_VENV:-.venv} python stamp
  if [ "$venv" = active ]; then
    python -c 'import megas2s' || {
      echo "error: megas2s is not installed in the active environment; run: pip install -e '.[dev]'" >&2
      return 2
    }
    return 0
  fi
  if [ ! -e "$venv/bin/activate" ]; then # written last: a folder without it was never finished
    for python in python3 python3.12 python3.11 none; do
      if [ "$python" = none ]; then
        echo "error: Python 3.11 or 3.12 is needed and was not found; install one of them" >&2
        return 2
      fi
      "$python" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && break
    done
    echo "making the environment in $venv with $("$python" --version)"
    "$python" -m venv "$venv"
  fi
  # shellcheck disable=SC1091
  . "$venv/bin/activate"
  # What DeepSpeed compiles is compiled anew for each environment; in a folder of their own two do not undo each other's.
  export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$VIRTUAL_ENV/torch_extensions}
  stamp=$(sha256sum pyproject.toml | cut -d' ' -f1)
  if [ "$(cat "$venv/.megas2s" 2>/dev/null)" != "$stamp" ]; then
    command -v g++ >/dev/null || {
      echo "error: a C++ compiler (g++) is needed: DeepSpeed compiles small extensions on first use" >&2
      return 2
    }
    pip install --quiet --disable-pip-version-check "torch>=2.10,<2.14" setuptools
    DS_BUILD_OPS=0 pip install --quiet --disable-pip-version-check --editable ".[dev]"
    echo "$stamp" >"$venv/.megas2s"
  fi
}

environment # by itself, not before || or &&: there a failed installation would not stop the function
