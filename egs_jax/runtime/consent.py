"""The notice that everyone gets who makes an avatar."""

CONSENT = (
    "An avatar of a person needs that person's consent. Disclose every video made with it as "
    "synthetic."
)
