-- The audit log as the leaves of a Merkle tree (RFC 6962), and the signed checkpoints of that tree. Rows arrive in any
-- order and late (spools), so their order in the tree is that in which they were sealed.

CREATE TABLE audit_leaves (
    position bigint PRIMARY KEY,
    id       uuid NOT NULL UNIQUE,
    leaf     bytea NOT NULL
);

-- The note holds size, root and moment, signed; the frontier is what the tree is gone on from.
CREATE TABLE audit_checkpoints (
    size     bigint PRIMARY KEY,
    frontier bytea NOT NULL,
    note     text NOT NULL
);

-- What is not sealed yet, so that sealing does not look at what is.
CREATE TABLE audit_unsealed (id uuid PRIMARY KEY);
INSERT INTO audit_unsealed SELECT id FROM audit_log;

CREATE FUNCTION audit_unsealed_add() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_unsealed SELECT id FROM added ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_unsealed_add AFTER INSERT ON audit_log
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION audit_unsealed_add();
