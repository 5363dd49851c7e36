#!/bin/sh
# Runs the issuer of the shop. It makes the CA at its first start, and a token for each member.
# The commands find the CA's directory in AEGIS_CERT_DIR.
set -eu
if [ ! -e "$AEGIS_CERT_DIR/ca-cert.pem" ]; then
    aegis certs init --key-type p256
    aegis certs issue "$AEGIS_NODE_ID" --key-type p256
fi
aegis policy publish "$POLICY"
# A member that has an identity already does not use its token.
for member in $MEMBERS; do
    mkdir -p -m 700 "$TOKENS/$member"
    aegis certs token "$member" --at "$AEGIS_ADVERTISE" > "$TOKENS/$member/token"
done
exec aegis node run
