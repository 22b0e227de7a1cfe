"""The stand-alone check runner: one check, configured by the environment."""
