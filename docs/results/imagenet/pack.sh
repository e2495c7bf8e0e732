#!/bin/sh
# Packs a folder of images into shards that cpvt reads: sh docs/results/imagenet/pack.sh FOLDER SHARDS, with
# FOLDER/{train,val}/CLASS/* (or test, validation). A shard is a tar of COUNT images (10,000) in the folders of their classes.
# Resumes: a shard that is there is whole. Needs GNU tar and split.
set -eu
mkdir -p "$2"
lists=$(mktemp -d) shards=$(cd "$2" && pwd)
trap 'rm -rf "$lists"' EXIT
for part in train val validation test; do
    [ -d "$1/$part" ] || continue
    (cd "$1/$part" && find -L * -mindepth 1 -type f ! -path '*/.*') > "$lists/images"
    LC_ALL=C sort "$lists/images" | split -l "${COUNT:-10000}" -d -a 4 - "$lists/$part-"
    for list in "$lists/$part"-*; do
        shard=$shards/$(basename "$list").tar
        [ ! -e "$shard" ] || continue
        tar -cf "$shard.part" --dereference --hard-dereference -C "$1/$part" -T "$list"
        mv "$shard.part" "$shard"
    done
    echo "$part: $(wc -l < "$lists/images") images in $(ls "$lists" | grep -c "^$part-") shards"
done
