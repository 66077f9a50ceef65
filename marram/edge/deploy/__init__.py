"""Deployments: a journal of idempotent steps that always ends, with the new set or the old one whole."""
