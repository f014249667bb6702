#!/usr/bin/env bash
# What every kernel needs of a multiprocessor, as ptxas reports it: a line for each kernel (the worst
# of its instantiations) and architecture with registers, spilled bytes and static shared bytes.
#   tests/cuda_resources.sh           prints the table
#   tests/cuda_resources.sh --check   compares it with cuda/resources.tsv: 1 where a kernel has become
#                                     worse or is not in the table
#   tests/cuda_resources.sh --update  writes cuda/resources.tsv
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
table=cuda/resources.tsv
architectures=(80 90a)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

measure() {
  local source arch
  for source in cuda/kernels/*.cu; do
    for arch in "${architectures[@]}"; do
      nvcc -std=c++20 -O3 --expt-relaxed-constexpr -I. -DFACET_CUDA -DFMT_USE_CONSTEXPR=1 \
        -gencode "arch=compute_$arch,code=sm_$arch" -Xptxas -v -Werror all-warnings \
        -c "$source" -o "$work/object" 2>"$work/log" || {
        cat "$work/log" >&2
        exit 1
      }
      # Names are demangled, stripped of their arguments and of the namespace.
      c++filt <"$work/log" | awk -v arch="sm_$arch" '
        { gsub(/\(anonymous namespace\)::/, "") }
        /Compiling entry function/ {
          name = $0
          sub(/.*entry function .(void )?/, "", name)
          sub(/[<(].*/, "", name)
          rest = $0
          sub(/^[^<]*<?/, "", rest)
          # The functor of map_kernel and its like says what is computed.
          inner = ""
          if (name ~ /(map|map_columns|zip|tensors|tensor_sums|channel_sums|finish_sums|tiled_gemm|mma_gemm)_kernel$/ &&
              match(rest, /[A-Za-z]+(<|>|,)/)) {
            split(rest, words, /[<>, ]+/)
            for (i = 1; i in words; ++i) {
              sub(/.*::/, "", words[i])
              if (words[i] ~ /^[A-Z][A-Za-z]+$/) { inner = "/" words[i]; break }
            }
          }
          sub(/.*::/, "", name)
          name = name inner
        }
        /spill stores/ { spill = $(NF - 3); for (i = 1; i <= NF; ++i) if ($i == "spill") { spill = $(i - 2); break } }
        /Used [0-9]+ registers/ {
          shared = 0
          for (i = 1; i <= NF; ++i) {
            if ($i == "Used") registers = $(i + 1)
            if ($i ~ /^smem/) shared = $(i - 2)
          }
          print name "\t" arch "\t" registers "\t" spill "\t" shared
        }'
    done
  done | sort | awk -F'\t' -v OFS='\t' '
    { key = $1 OFS $2
      for (i = 3; i <= 5; ++i) if (!(key in seen) || $i + 0 > worst[key, i]) worst[key, i] = $i + 0
      seen[key] = 1 }
    END { for (key in seen) print key, worst[key, 3], worst[key, 4], worst[key, 5] }' | sort
}

header=$'kernel\tarchitecture\tregisters\tspilled bytes\tshared bytes'
case "${1:-}" in
  "") echo "$header"; measure ;;
  --update) { echo "$header"; measure; } >"$work/table" && mv "$work/table" "$table" ;;
  --check)
    measure >"$work/now"
    awk -F'\t' '
      NR == FNR { if (FNR > 1) for (i = 3; i <= 5; ++i) before[$1, $2, i] = $i; known[$1, $2] = 1; next }
      !(($1, $2) in known) { print $1 " on " $2 " is not in the table"; bad = 1; next }
      { split("x x registers spilled shared", word, " ")
        for (i = 3; i <= 5; ++i) if ($i + 0 > before[$1, $2, i] + 0) {
          print $1 " on " $2 ": " word[i] " " $i ", before " before[$1, $2, i]; bad = 1 } }
      END { exit bad }' "$table" "$work/now" || {
      echo "worse than $table; if that is wanted: tests/cuda_resources.sh --update" >&2
      exit 1
    }
    echo "$(wc -l <"$work/now") kernels as in $table"
    ;;
  *) echo "usage: tests/cuda_resources.sh [--check|--update]" >&2; exit 2 ;;
esac
