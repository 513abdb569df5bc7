# sed -i -f: services listen on unix sockets, where no other user of this machine can report false trap
# hits. The units make the directories.
s|^socket = "inet:8894@127.0.0.1"$|socket = "unix:/var/spool/postfix/gatepost/milter.sock"|
s|^listen = "inet:10040@127.0.0.1"$|listen = ["unix:/var/spool/postfix/gatepost/policy.sock", "unix:/run/gatepost/exim/policy.sock"]|
