#!/usr/bin/env bash
# Compiles the RocksDB that rust-librocksdb-sys brings along in a dozen large units instead of some
# 350 files, as RocksDB's own `make unity.a` does: about a quarter of an hour on two cores instead of
# more than an hour. Same sources and definitions as the crate's own build; -O2, RocksDB's choice for releases.
#
#   bench-compare/rocksdb-unity.sh OUT     writes OUT/librocksdb.a and OUT/env
#   . OUT/env                              before cargo: links it
#
# JOBS: compilers at once (2). PER: sources in a unit (24); more need more memory.
# Run again, it goes on where it was.
set -euo pipefail
OUT=$(mkdir -p "${1:?a directory for the result}" && cd "$1" && pwd)
PER=${PER:-24}
JOBS=${JOBS:-2}
cd "$(dirname "$0")"

cargo fetch --quiet
crate() {
  cargo metadata --format-version 1 --offline |
    python3 -c 'import json,os,sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == sys.argv[1]: print(os.path.dirname(package["manifest_path"]))' "$1"
}
SYS=$(crate rust-librocksdb-sys)
LZ4=$(crate lz4-sys)/liblz4/lib

# What has no part in a Linux build on x86-64 stays out; the crate's build_version.cc takes the place of the generated one.
{
  tr -s '[:space:]' '\n' < "$SYS/rocksdb_lib_sources.txt" | grep '\.cc$' |
    grep -vE '^util/build_version\.cc$|^port/win|_win\.cc$|^env/win|arm64|crc32c_ppc' | sed "s,^,$SYS/rocksdb/,"
  echo "$SYS/build_version.cc"
} > "$OUT/sources"
if ! cmp -s "$OUT/sources" "$OUT/sources.done" || [ "$(cat "$OUT/per.done" 2> /dev/null)" != "$PER" ]; then
  rm -f "$OUT"/unit-*
  split --lines="$PER" --numeric-suffixes --suffix-length=2 "$OUT/sources" "$OUT/unit-"
  for list in "$OUT"/unit-??; do sed 's,.*,#include "&",' "$list" > "$list.cc"; rm "$list"; done
  cp "$OUT/sources" "$OUT/sources.done"
  echo "$PER" > "$OUT/per.done"
fi

FLAGS=(-O2 -std=c++20 -fPIC -ffunction-sections -fdata-sections -fno-rtti -fno-builtin-memcmp -w
  -march=x86-64-v3 -mpclmul -include cstdint
  -I "$SYS" -I "$SYS/rocksdb" -I "$SYS/rocksdb/include" -I "$SYS/c-api-extensions" -I "$LZ4"
  -DNDEBUG -DOS_LINUX -DLZ4 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
  -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_PTHREAD_ADAPTIVE_MUTEX -DROCKSDB_BACKTRACE
  -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT -DROCKSDB_SCHED_GETCPU_PRESENT
  -DROCKSDB_AUXV_GETAUXVAL_PRESENT)

# A unit whose sources do not go together (two of them define the same name) is compiled source by source.
compile_unit() {
  local unit=${1%.cc} source count=0
  shift
  [ -e "$unit.done" ] && return
  if g++ "$@" -c "$unit.cc" -o "$unit.o" 2> "$unit.err"; then
    echo "$(basename "$unit")"
  else
    rm -f "$unit.o"
    for source in $(sed 's,#include "\(.*\)",\1,' "$unit.cc"); do
      count=$((count + 1))
      g++ "$@" -c "$source" -o "$unit-$count.o"
    done
    echo "$(basename "$unit"), source by source"
  fi
  touch "$unit.done"
}
export -f compile_unit
printf '%s\n' "$OUT"/unit-??.cc |
  xargs -P "$JOBS" -I{} nice -n 10 bash -c 'set -euo pipefail; compile_unit "$@"' _ {} "${FLAGS[@]}"
rm -f "$OUT/librocksdb.a"
ar crs "$OUT/librocksdb.a" "$OUT"/unit-*.o
cat > "$OUT/env" << EOF
export ROCKSDB_LIB_DIR=$OUT ROCKSDB_STATIC=1 ROCKSDB_INCLUDE_DIR=$SYS/rocksdb/include
EOF
echo "$OUT/librocksdb.a"
