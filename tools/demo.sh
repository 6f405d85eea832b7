#!/bin/sh
# The main job on the bundled sample: export, profile, eval, size, report. Usage: demo.sh FOLDER
set -eu
folder=$1
clipperf=${CLIPPERF:-clipperf}
rm -rf "$folder"
mkdir -p "$folder"

echo "== 1/5 export: both towers in what is fastest here and keeps its accuracy"
"$clipperf" export clipperf-sample --runtime best --out "$folder/clipperf-sample" --quiet

echo "== 2/5 profile: what each tower costs so, beside PyTorch"
"$clipperf" profile clipperf-sample --batch 1,8,32 --quick --quiet --json "$folder/profile.json"

echo "== 3/5 eval: the accuracy that is kept, on the bundled set"
"$clipperf" eval clipperf-sample --runtime best --quiet --json "$folder/eval.json"

echo "== 4/5 size: what 500 images and 2,000 texts a second need"
"$clipperf" size "$folder/profile.json" "$folder/eval.json" \
    --images-per-s 500 --texts-per-s 2000 --slo-ms 250

echo "== 5/5 report"
"$clipperf" report "$folder/profile.json" "$folder/eval.json" \
    --images-per-s 500 --texts-per-s 2000 --slo-ms 250 --format html --out "$folder/report.html"
"$clipperf" report "$folder/profile.json" "$folder/eval.json" --format md --out "$folder/report.md"

echo
echo "Deployable artifact: $folder/clipperf-sample  (clipperf.load opens it)"
echo "Results:             $folder/profile.json, $folder/eval.json"
echo "Report, open it:     $folder/report.html"
