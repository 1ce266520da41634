-- A key counts once over all gateways: what a gateway counted comes with the keys that it was, and the one that decides
-- keeps each of them here. Windows of gateways of the version before have none; their counts stand as they are.
ALTER TABLE rollout_windows ADD COLUMN firsts jsonb;

CREATE TABLE rollout_keys (
    rollout  uuid NOT NULL REFERENCES rollouts ON DELETE CASCADE,
    -- seen: in the step that the rollout is in; failed, slow: in the rollout.
    kind     text NOT NULL CHECK (kind IN ('seen', 'failed', 'slow')),
    -- Keyed hash of the key, in [0, 1).
    position double precision NOT NULL,
    PRIMARY KEY (rollout, kind, position)
);
