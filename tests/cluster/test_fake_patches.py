"""The fake's patches: what changes, and what stays."""

from __future__ import annotations

import pytest

from cluster.fakekube import ApiError
from cluster.fakekube.patches import apply, json_patch, merge_patch, strategic_merge

POD = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {"name": "main", "image": "x:1", "env": [{"name": "A", "value": "1"}], "args": ["a", "b"]},
            {"name": "side", "image": "y:1"},
        ]
    },
}


def test_a_merge_patch_replaces_lists() -> None:
    changed = merge_patch(POD, {"metadata": {"labels": {"a": None, "b": "2"}}, "spec": {"containers": []}})
    assert changed == {"metadata": {"labels": {"b": "2"}}, "spec": {"containers": []}}


def test_a_strategic_merge_patch_merges_them_by_name() -> None:
    env = [{"name": "B", "value": "2"}]
    patch = {
        "spec": {"containers": [{"name": "main", "env": env, "args": ["c"]}, {"name": "side", "$patch": "delete"}]}
    }
    (main,) = strategic_merge(POD, patch)["spec"]["containers"]
    assert main == {"name": "main", "image": "x:1", "env": [{"name": "A", "value": "1"}, *env], "args": ["c"]}


def test_a_json_patch() -> None:
    operations = [
        {"op": "test", "path": "/metadata/labels/a", "value": "1"},
        {"op": "add", "path": "/metadata/labels/x~1y", "value": "2"},
        {"op": "remove", "path": "/spec/containers/1"},
        {"op": "replace", "path": "/spec/containers/0/image", "value": "x:2"},
        {"op": "add", "path": "/spec/containers/0/args/-", "value": "c"},
    ]
    changed = json_patch(POD, operations)
    assert changed["metadata"]["labels"] == {"a": "1", "x/y": "2"}
    (main,) = changed["spec"]["containers"]
    assert (main["image"], main["args"]) == ("x:2", ["a", "b", "c"])
    with pytest.raises(ApiError):
        json_patch(POD, [{"op": "test", "path": "/metadata/labels/a", "value": "2"}])


def test_apply_takes_back_what_it_no_longer_names_and_leaves_what_others_set() -> None:
    before = {"data": {"a": "1", "b": "2"}, "spec": {"containers": [{"name": "main", "args": ["a"]}, {"name": "side"}]}}
    current = merge_patch(before, {"data": {"other": "3"}, "status": {"phase": "x"}})
    after = {"data": {"a": "5"}, "spec": {"containers": [{"name": "main"}]}}
    assert apply(current, after, before) == {
        "data": {"a": "5", "other": "3"},
        "spec": {"containers": [{"name": "main"}]},
        "status": {"phase": "x"},
    }
