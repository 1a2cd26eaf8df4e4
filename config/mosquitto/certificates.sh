#!/bin/sh
# A certificate authority for the broker and the nodes, with openssl. Keep its folder where no node and no broker is: who
# has ca.key can be every node.
#
# Usage: certificates.sh DIR authority          ca.crt, ca.key, ca.crl
#        certificates.sh DIR broker HOST        broker.crt, broker.key, for the name or the address HOST
#        certificates.sh DIR node NAME          NAME.crt, NAME.key; NAME is the node's node.id, or fleet
#        certificates.sh DIR revoke NAME        that certificate is worth nothing any more: copy ca.crl to the broker.
#                                              Another one may be made for the name
set -eu
umask 077

# Ten years: a sensor must not fall silent because nobody renewed anything. What is stolen is revoked.
DAYS=3650

usage() {
    sed -n 's/^# \{0,1\}//; /^Usage/,/Another/p' "$0" >&2
    exit 2
}
[ $# -ge 2 ] || usage
mkdir -p "$1"
cd "$1"

[ -e openssl.cnf ] || cat >openssl.cnf <<END
[ca]
default_ca = authority
[authority]
dir = .
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = .
certificate = ca.crt
private_key = ca.key
default_md = sha256
default_days = $DAYS
default_crl_days = $DAYS
policy = name
unique_subject = no
[name]
commonName = supplied
[req]
distinguished_name = req_name
[req_name]
END

fail() {
    echo "certificates.sh: $*" >&2
    exit 1
}
# openssl tells what it does on standard error; that is shown where it fails.
quietly() {
    told=$("$@" 2>&1) || fail "$told"
}
new_key() {
    [ ! -e "$1" ] || fail "$PWD/$1 is there already"
    quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1"
}
revocations() { quietly openssl ca -batch -config openssl.cnf -gencrl -out ca.crl; }

# A certificate for a name, with what it may be used for.
certificate() {
    file=$1 name=$2 extensions=$3
    [ -e ca.key ] || fail "no ca.key in $PWD: make the authority first"
    new_key "$file.key"
    quietly openssl req -new -config openssl.cnf -key "$file.key" -subj "/CN=$name" -out "$file.csr"
    printf 'basicConstraints = CA:FALSE\n%s\n' "$extensions" >"$file.ext"
    quietly openssl ca -batch -notext -config openssl.cnf -in "$file.csr" -out "$file.crt" -extfile "$file.ext"
    rm "$file.csr" "$file.ext"
}

case $2 in
authority)
    new_key ca.key
    : >index.txt
    echo 1000 >serial
    echo 1000 >crlnumber
    quietly openssl req -new -x509 -config openssl.cnf -key ca.key -subj "/CN=urbansound" -days "$DAYS" -out ca.crt \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    revocations
    ;;
broker)
    [ $# -eq 3 ] || usage
    case $3 in
    *:*) kind=IP ;;
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
    esac
    certificate broker "$3" "extendedKeyUsage = serverAuth
subjectAltName = $kind:$3"
    ;;
node)
    [ $# -eq 3 ] || usage
    case $3 in
    *[!a-z0-9_-]*) fail "$3 is not a node.id: small letters, digits, - and _" ;;
    esac
    certificate "$3" "$3" "extendedKeyUsage = clientAuth"
    ;;
revoke)
    [ $# -eq 3 ] || usage
    quietly openssl ca -batch -config openssl.cnf -revoke "$3.crt"
    revocations
    rm -f "$3.crt" "$3.key" # whoever takes its place has its name
    ;;
*) usage ;;
esac
