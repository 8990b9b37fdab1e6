"""Tests of the whole way on Kubernetes: real helm, real coordinator, and a Kubernetes of our own in `fakekube`."""
