# shellcheck shell=bash
# What deploy/up and deploy/test both need of the machine. Sourced, never run.

# Messages go to standard error: standard output belongs to the program that is started.
say() {
  printf '\n==> %s\n' "$*" >&2
}

give_up() {
  printf '\ntrunkline: %s\n' "$*" >&2
  exit 1
}

as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    give_up "this needs root, and there is no sudo: run as root: $*"
  fi
}

require_rust() {
  if ! command -v cargo >/dev/null && [[ -f ${CARGO_HOME:-$HOME/.cargo}/env ]]; then
    # shellcheck source=/dev/null
    . "${CARGO_HOME:-$HOME/.cargo}/env"
  fi
  command -v cargo >/dev/null || give_up "Rust is missing. Install it from https://rustup.rs, then run this again."
}

has_apt() {
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null
}

missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      printf '%s\n' "$package"
  done
}

# Installs the Debian packages that are not there yet. Services among them are not started: only their tools are used.
install_packages() {
  local missing policy=/usr/sbin/policy-rc.d made_policy=no status=0
  mapfile -t missing < <(missing_packages "$@")
  [[ ${#missing[@]} -gt 0 ]] || return 0

  say "Installing ${missing[*]}"
  if [[ ! -e $policy ]]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 0755 "$policy"
  fi
  apt_install "${missing[@]}" || status=$?
  [[ $made_policy == no ]] || as_root rm -f "$policy"
  [[ $status -eq 0 ]] || give_up "apt-get could not install ${missing[*]}"
  keep_stopped "${missing[@]}"
}

apt_install() {
  as_root apt-get update -qq >&2 &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# A service that we have just installed for its programs must not start at the next boot. One that was there is left alone.
keep_stopped() {
  local package
  command -v systemctl >/dev/null || return 0
  for package in coturn:coturn etcd-server:etcd bird2:bird; do
    [[ " $* " != *" ${package%%:*} "* ]] ||
      as_root systemctl disable --quiet "${package##*:}.service" ||
      say "${package##*:} stays enabled at boot: systemctl disable ${package##*:}"
  done
}
