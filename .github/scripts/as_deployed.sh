#!/usr/bin/env bash
# Run medvl out of the image that an experiment names, with the settings that its coordinator has: the code of a commit
# may give results other names than the released code does.
#   as_deployed.sh EXPERIMENT WORD…     in a copy of the repository; the words are medvl's, paths are seen from there
set -euo pipefail

name=$1
shift
made=$(mktemp --directory --tmpdir="$PWD" deployed-XXXXXX)
trap 'rm -r "$made"' EXIT
helm template "medvl-$name" charts/medvl --values "experiments/$name.yaml" \
  | python .github/scripts/run_settings.py "$made"
options=(--env AWS_ACCESS_KEY_ID --env AWS_SECRET_ACCESS_KEY)
if [[ -n "${AWS_CA_BUNDLE:-}" ]]; then # a self-hosted runner's
  options+=(--env AWS_CA_BUNDLE --volume "$AWS_CA_BUNDLE:$AWS_CA_BUNDLE:ro")
fi
docker run --rm --quiet --read-only --tmpfs /tmp --cap-drop ALL --user "$(id -u):$(id -g)" --volume "$PWD:$PWD" \
  --workdir "$PWD" "${options[@]}" "$(cat "$made/image")" "$@" --config "$made/run.yaml"
