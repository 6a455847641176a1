#!/usr/bin/env bash
# Install what the cluster tests launch with, where it is missing: pdsh, an SSH server, Open MPI, network tools.
# Debian or Ubuntu, as root. Prints why where it cannot; the tests then skip with that reason.
set -euo pipefail

packages=()
command -v pdsh >/dev/null || packages+=(pdsh)
[ -x /usr/sbin/sshd ] || packages+=(openssh-server)
command -v mpirun >/dev/null || packages+=(openmpi-bin)
command -v ip >/dev/null || packages+=(iproute2)
if [ ${#packages[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing: ${packages[*]}, and only root can install them with apt-get"
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
