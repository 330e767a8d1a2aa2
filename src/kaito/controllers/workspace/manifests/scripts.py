"""What the containers of a tuning Job run in their shells."""

from __future__ import annotations

from typing import Final

SENTINEL: Final = "fine_tuning_completed.txt"
"""File that the trainer leaves beside its result."""

TRAIN: Final = "mkdir -p {output} && touch {output}/.started; {launch}"
"""Runs the trainer; ``.started`` tells the pusher that from now on there is a process to watch."""

EXTRACT: Final = "set -e; ls -la /data; cp -r /data/. {data}; ls -la {data}"

DOWNLOAD: Final = """\
if [ -z "$DATA_URLS" ]; then echo "there is nothing to download" >&2; exit 1; fi
for url in $DATA_URLS; do
  name=$(basename "$url" | tr '?=&' '_')
  target="$DATA_VOLUME_PATH/$name"
  attempt=1
  while :; do
    code=$(curl -sSL --proto '=http,https' --proto-redir '=http,https' -o "$target" -w '%{http_code}' "$url") &&
      [ "$code" = 200 ] && [ -s "$target" ] && break
    echo "$url: attempt $attempt of 3 failed (HTTP ${code:-none})" >&2
    rm -f "$target"
    if [ "$attempt" -ge 3 ]; then exit 1; fi
    attempt=$((attempt + 1))
    sleep 2
  done
  echo "$url: $(wc -c < "$target") bytes in $target"
done
"""
"""Loads ``$DATA_URLS`` into ``$DATA_VOLUME_PATH``: three tries for each, and an empty file is none."""

PUSH: Final = f"""\
set -u
found() {{ find "$RESULTS" -name {SENTINEL} 2>/dev/null | head -n 1; }}
while [ -z "$(found)" ]; do
  if [ -e "$RESULTS/.started" ] && ! pgrep -f fine_tuning >/dev/null; then
    sleep 2
    if [ -z "$(found)" ]; then echo "the training has ended without a result" >&2; exit 1; fi
  fi
  sleep 2
done
set -e
from=$(dirname "$(found)")
work=$(mktemp -d)
mkdir "$work/data"
cp "$from/adapter_config.json" "$from/adapter_model.safetensors" "$work/data/"
chmod -R a+rX "$work/data"
cd "$work"
tar -cf layer.tar data
digest=$(sha256sum layer.tar | cut -d' ' -f1)
gzip -1 layer.tar
printf '{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:%s"]}}}}' \\
  "$digest" > config.json
attempt=1
until oras push "$IMAGE" \\
  --config config.json:application/vnd.oci.image.config.v1+json \\
  --annotation "sh.kaito.model.name=$MODEL" \\
  layer.tar.gz:application/vnd.oci.image.layer.v1.tar+gzip; do
  if [ "$attempt" -ge 5 ]; then echo "$IMAGE: not pushed after 5 attempts" >&2; exit 1; fi
  attempt=$((attempt + 1))
  sleep $((attempt * 5))
done
echo "Upload complete: $IMAGE"
"""
"""Waits for the trainer's result and pushes it to ``$IMAGE`` as an image with the files in ``/data``; needs no privilege.

A training that ends without a result ends the pusher, so that the Job does not hang."""
