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
if ! apt-get -qq download libonnxruntime-dev >/dev/null 2>&1; then
  # shellcheck disable=SC2016  # apt's own variables
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$') || {
    echo "headers.sh: this system has neither libonnxruntime-dev nor a Debian mirror; unpack a release of ONNX Runtime" >&2
    exit 3
  }
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >sources.list
  mkdir -p lists/partial cache/archives/partial
  apt() {
    apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$work/lists" \
      -o Dir::Cache="$work/cache" -o APT::Sandbox::User= "$@" >/dev/null
  }
  apt update
  apt download libonnxruntime-dev
fi
dpkg-deb -x libonnxruntime-dev_*.deb .
cp -r usr/include/onnxruntime/. "$target"
