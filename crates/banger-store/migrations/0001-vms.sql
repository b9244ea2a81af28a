CREATE TABLE vms (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    address      INTEGER NOT NULL UNIQUE,
    phase        TEXT NOT NULL,
    intent       TEXT NOT NULL,
    spec         TEXT NOT NULL,
    origin       TEXT NOT NULL,
    image        TEXT NOT NULL,
    image_digest TEXT,
    kernel       TEXT,
    ephemeral    INTEGER NOT NULL,
    created_at   TEXT NOT NULL,
    started_at   TEXT,
    boot_id      TEXT,
    failure      TEXT
) STRICT;

-- What is about to be made or removed for a VM, and what has been.
CREATE TABLE journal (
    vm        TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    resource  TEXT NOT NULL,
    confirmed INTEGER NOT NULL,
    PRIMARY KEY (vm, resource)
) STRICT;

CREATE TABLE operations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id     TEXT NOT NULL UNIQUE,
    final  INTEGER NOT NULL,
    view   TEXT NOT NULL
) STRICT
