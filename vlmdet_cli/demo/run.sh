#!/bin/sh
# All steps on the embedded demo: seven commands, then the comparison of the base model and the tuned one.
set -eu
folder=${1:-demo}
vlmdet init --demo "$folder"
cd "$folder"
for step in prepare augment train merge infer eval viz; do
    echo
    echo "=== vlmdet $step"
    vlmdet "$step"
done
echo
echo "=== the base model and the tuned one"
vlmdet infer --quiet --model model --name base
vlmdet eval --quiet --name base
vlmdet compare base run-001
echo
echo "Pictures: $folder/out/runs/run-001/viz/test/index.html"
