#!/bin/sh
# ONNX Runtime's headers, in a folder: those of this system's libonnxruntime-dev or, where it has none, of a newer Debian's.
#
#     examples/cpp/headers.sh FOLDER
#
# Nothing is installed. Any ONNX Runtime of the headers' version (1.21) or newer runs what is compiled with them.
set -eu
suite=trixie
target=${1:?a folder is needed, as in headers.sh build/onnxruntime}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$target"
target=$(cd "$target" && pwd)
cd "$work"
mkdir -p lists/partial cache/archives/partial
apt() { # with lists of its own: nothing of the system's changes, and no rights are needed
  apt-get -qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User= "$@" 2>>errors
}
apt update || true # one of several sources may not answer
if ! apt download libonnxruntime-dev; then
  # shellcheck disable=SC2016 # apt's own variables
  mirror=$(apt indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$') || {
    echo "headers.sh: neither libonnxruntime-dev nor a Debian mirror is among this system's packages; unpack a release of ONNX" \
      "Runtime instead" >&2
    exit 3
  }
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >sources.list
  newer() { apt -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- "$@"; }
  if ! { newer update && newer download libonnxruntime-dev; }; then
    echo "headers.sh: cannot fetch libonnxruntime-dev of Debian $suite: $(tail -n 1 errors)" >&2
    exit 3
  fi
fi
dpkg-deb -x libonnxruntime-dev_*.deb .
cp -r usr/include/onnxruntime/. "$target"
