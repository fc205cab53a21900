"""Contract suites that run against everything registered, ours or a third party's."""
