#!/usr/bin/env bash
# Writes ptx/ anew from every .cu file here. The folders in .file lines are removed: they are this machine's.
set -euo pipefail
cd "$(dirname "$0")"
rm -rf ptx
mkdir ptx
for source in *.cu; do
    name=${source%.cu}
    nvcc -ptx -arch=sm_80 -O3 -lineinfo "$source" -o "ptx/$name.ptx"
    nvcc -ptx -arch=sm_80 -O3 -lineinfo -DBUG "$source" -o "ptx/${name}_bug.ptx"
done
sed -i -E 's|(^\s*\.file\s+[0-9]+ ")[^"]*/|\1|' ptx/*.ptx
sha256sum ./*.cu ./*.cuh > ptx/SHA256SUMS
