"""How every picture is drawn: one style, one layout, one engine; and pictures of what callbacks measure."""
