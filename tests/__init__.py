"""Tests of distft, by what they need: unit, ray, e2e, cluster, gpu; and what they lean on."""
