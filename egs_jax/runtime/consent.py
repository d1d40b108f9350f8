"""What everyone who makes an avatar is told."""

CONSENT = (
    "An avatar of a person needs that person's consent. Disclose every video made with it as "
    "synthetic."
)
