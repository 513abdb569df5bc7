"""What mail programs write about their users, as templates with one client's words in them.

`message(program, canaries)` is one such message; what comes after its header is `BODY`, octet for
octet.
"""

from canary import Canaries

# Fields as the program writes them; {host} is EHLO's first label.
PROGRAMS = {
    "Thunderbird": "Message-ID: <6c1e0f1e-1111-4222-8333-944455556666@{host}>\n"
                   "Date: Fri, 20 Nov 2026 15:30:00 +0530\nUser-Agent: Mozilla Thunderbird\n"
                   "X-Mozilla-News-Host: snews://{helo}\nContent-Language: de-AT\n"
                   "X-Accept-Language: de-at, de\nX-Identity-Key: id1\nX-Account-Key: account1\n"
                   "Fcc: imap://{login}@{helo}/Sent\nX-Enigmail-Version: 2.0 on {helo}\n",
    "Alpine": "Message-ID: <alpine.DEB.2.26.2611201530.{address}.1@{helo}>\n"
              "Date: Fri, 20 Nov 2026 15:30:00 +0530 (IST)\nX-X-Sender: {login}@{helo}\n"
              "User-Agent: Alpine 2.26\n",
    "Mutt": "Message-ID: <ZWUaXyz123@{name}>\nX-Operating-System: Linux {helo} 6.1\n"
            "X-Editor: vim\nX-Uptime: 3 days on {host}\nReferences: <1@example.net> <2@{helo}>\n",
    "Outlook": "Message-ID: <000001da2150@{host}>\nX-Mailer: Microsoft Outlook 16.0\n"
               "X-MS-Has-Attach: yes\nX-MS-Exchange-Transport-FromEntityHeader: {helo}\n"
               "x-originating-ip: [{address}]\nmsip_labels: MSIP_Label_{host}\n"
               "acceptlanguage: de-AT\nX-OlkEid: {login}\nX-MSMail-Priority: Normal\n",
    "webmail": "Received: from [{address}] ({name} [{address}])\n by webmail.local.test"
               " with HTTP; Fri, 20 Nov 2026 11:00:00 +0100\nMessage-ID: <abc@local.test>\n"
               "X-Forward: {address}\nX-Webmail-UserID: {login}\nX-Sender: {login}\n"
               "X-RoundCube-Server: {helo}\nX-HTTP-UserAgent: Mozilla on {name}\n",
    "script": "Message-ID: <7@localhost>\nX-PHP-Originating-Script: 33:{login}.php\n"
              "X-Cron-Env: <LOGNAME={login}>\nX-Remote-Addr: {address}\nClient-IP: {address}\n"
              "X-Real-IP: {address}\nX-Abuse-Info: {login} from {address}\n",
    "scanner": "Message-ID: <8@local.test>\nX-Antivirus: Scanner on {helo}\n"
               "X-Virus-Scanned: by amavisd at {helo}\nX-Spam-Checker-Version: 4.0 on {helo}\n",
    "redirect": "Resent-From: alice@local.test\nResent-Message-ID: <9@{helo}>\n"
                "Resent-User-Agent: Mutt on {helo}\nResent-To: bob@local.test\n"
                "Message-ID: <10@example.net>\n",
    "nobody has heard of": "Message-ID: <11@local.test>\nX-House: {address}\nX-Desk: at {helo}.\n"
                           "X-Door: {name}\nX-Key: ({login})\n",
    "nmh": "Content-ID: <9765.1@{helo}>\nMessage-ID: <9765.2@{helo}>\nX-Mailer: nmh on {helo}\n"
           "Sender: {login}@{helo}\nComments: Authenticated sender is <{login}>\n",
    "Pegasus": "Comments: Authenticated sender is <{login}@{helo}>\nX-PMRQC: 1\n"
               "Return-Receipt-To: {login}@{helo}\nErrors-To: <root@{helo}>\n"
               "Organization: {name}\nMessage-ID: <12@local.test>\n",
    "web application": "X-Nifty-Remote-IP: 192.168.0.9\nX-Connecting-IP: {address}\n"
                       "CF-Connecting-IP: 192.0.2.99\nForwarded: for={helo}\nVia: 1.1 {helo}\n"
                       "X-home-MailScanner-From: {login}\nX-Trace: {helo} 1 2 {address}\n"
                       "X-SnappyMail-ID: 7\nX-Scanned-By: MIMEDefang on {helo}\n"
                       "Content-Location: file://{helo}/x\nMessage-ID: <13@local.test>\n",
}  # fmt: skip
BODY = (
    b"--b\nContent-Type: text/plain; charset=utf-8\n\nGr\xc3\xbc\xc3\x9fe \xff X-Mailer: none\n"
    b"--b\nContent-Type: application/octet-stream\n\n.\n..\n \n--b--\n"
)


def message(program: str, canaries: Canaries) -> bytes:
    told = PROGRAMS[program].format(
        address=canaries.address, name=canaries.name, helo=canaries.helo,
        host=canaries.helo.partition(".")[0], login=canaries.login,
    )  # fmt: skip
    rest = (
        "From: Alice <alice@local.test>\nTo: bob@local.test\nSubject: x\nMIME-Version: 1.0\n"
        'Content-Type: multipart/mixed; boundary="b"\n\n'
    )
    return (told + rest).encode() + BODY
