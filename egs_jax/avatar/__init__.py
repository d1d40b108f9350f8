"""A trained run that speaks: sound -> frames -> film."""
