"""The header fields that submissions lose by default, and those that are known to be harmless.

Globs; case does not matter. conf/gatepost.toml shows the first list in full, docs/privacy.md the
second; tests hold them together.
"""

# What mail programs, webmails, scanners and earlier mailboxes write about the sender's place,
# account, machine and software.
DEFAULT_REMOVE = (
    # The program, and what it runs on.
    "X-Mailer", "User-Agent", "X-User*", "X-HTTP-*", "X-MimeOLE", "X-Newsreader", "X-Browser*",
    "X-Enigmail", "X-Enigmail-*", "X-Pgp-Agent", "X-PGP-Universal", "X-Operating-System", "X-OS",
    "X-Uptime", "X-Editor", "X-Platform", "X-Device*", "X-Cron-Env",
    # The client's address, name or login, as webmails, scripts and servers pass them on.
    "X-Originating-*", "X-Originator", "X-ClientProxiedBy", "X-Client-*", "Client-IP",
    "X-Forward", "X-Forwarded-By", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
    "X-Forwarded-Server", "X-Real-IP", "X-IP", "X-IP-*", "X-Remote-*", "Remote-Addr", "X-Host",
    "X-Hostname", "X-HELO", "X-EHLO", "X-SMTP-Server", "X-Source*", "X-Sender", "X-Sender-*",
    "X-SenderIP", "X-Senders-IP", "X-X-Sender", "X-Env-Sender", "X-Envelope-*", "X-Sent-By",
    "X-Login*", "X-SASL-*", "X-Auth*", "X-Webmail-*", "X-AntiAbuse", "X-Abuse*",
    "X-Get-Message-Sender-Via", "X-PHP-*", "X-MDRemoteIP", "X-MDHelo", "Received-SPF",
    "X-Received", "X-Location", "X-Geo-*", "X-Timezone", "NNTP-Posting-*", "Injection-Info",
    # What single programs write for themselves.
    "X-Mozilla-*", "X-Identity-Key", "X-Account-Key", "FCC", "X-Fcc*", "Gcc", "X-Evolution-*",
    "X-KMail-*", "X-K9mail-*", "X-FairEmail-*", "X-Claws-*", "X-Sylpheed-*", "X-Gnus-*",
    "X-Draft-*", "X-Apple-*", "X-Uniform-Type-Identifier", "X-Universally-Unique-Identifier",
    "X-RoundCube-*", "X-SOGo-*", "X-Nextcloud-*", "X-Horde-*", "X-Squirrel*", "X-RainLoop-*",
    "X-Zimbra-*", "X-Kopano-*", "X-Kerio-*", "X-MIMETrack", "X-Notes-*", "X-Eudora-*",
    "X-Attachments", "X-TUID", "X-OfflineIMAP*", "X-QQ-*", "X-GUID", "X-Coremail-*", "X-CM-*",
    "X-Gm-*", "X-Google-*", "X-Gmail-*", "X-Olk*", "X-MSMail-*", "X-MS-*", "X-Microsoft-*",
    "X-Forefront-*", "X-EOP*", "X-OriginatorOrg", "MSIP_Labels",
    # The language.
    "Accept-Language", "AcceptLanguage", "X-Accept-Language", "Content-Language",
    # Scanners on the sender's side.
    "X-Antivirus*", "X-AVG*", "X-Avast*", "X-AVK-*", "X-Eset*", "X-Kaspersky*", "X-KLMS-*",
    "X-Virus-*", "X-Spam-*", "X-Proofpoint-*", "X-Barracuda-*", "X-IronPort-*",
    # What earlier mailboxes and readers wrote into it.
    "Status", "X-Status", "X-UID", "X-UIDL", "X-IMAP*", "X-Keywords", "X-Label", "X-Folder",
    "Delivered-To", "X-Delivered-To", "X-Original-To", "X-Rcpt-To", "Envelope-To",
    "Delivery-Date", "Bcc", "X-Bcc", "Resent-Bcc", "Resent-User-Agent", "Resent-X-*",
    # What Postfix makes of a mailbox's "From " line at the top: who wrote it, and when.
    "Mailbox-Line",
)  # fmt: skip

# Stays although a glob of the list above covers it: without it winmail.dat is not taken apart.
DEFAULT_KEEP = ("X-MS-TNEF-Correlator",)

# IANA, Message Headers: the field names registered for mail, permanent and provisional (RFC 3864).
_REGISTERED = (
    "Alternate-Recipient", "Apparently-To", "ARC-Authentication-Results", "ARC-Message-Signature",
    "ARC-Seal", "Archived-At", "Authentication-Results", "Author", "Auto-Submitted",
    "Autoforwarded", "Autosubmitted", "Cc", "Comments", "Conversion", "Conversion-With-Loss",
    "Date", "Deferred-Delivery", "Discarded-X400-IPMS-Extensions",
    "Discarded-X400-MTS-Extensions", "Disclose-Recipients", "Disposition-Notification-Options",
    "Disposition-Notification-To", "DKIM-Signature", "DL-Expansion-History",
    "Downgraded-Final-Recipient", "Downgraded-In-Reply-To", "Downgraded-Message-Id",
    "Downgraded-Original-Recipient", "Downgraded-References", "EDIINT-Features", "Eesst-Version",
    "Encoding",
    "Encrypted", "Errors-To", "Expires", "Expiry-Date", "Form-Sub", "From",
    "Generate-Delivery-Report", "HP-Outer", "Importance", "In-Reply-To", "Incomplete-Copy",
    "Jabber-ID", "Keywords", "Language", "Latest-Delivery-Time", "Message-Context", "Message-ID",
    "Message-Type", "MIME-Version", "MMHS-*", "MT-Priority", "Obsoletes", "Organization",
    "Original-Encoded-Information-Types", "Original-From", "Original-Message-ID",
    "Original-Recipient", "Original-Subject", "Originator-Return-Address", "PICS-Label",
    "Prevent-NonDelivery-Report", "Priority", "Privicon", "Received", "References", "Reply-By",
    "Reply-To", "Require-Recipient-Valid-Since", "Resent-Cc", "Resent-Date", "Resent-From",
    "Resent-Message-ID", "Resent-Reply-To", "Resent-Sender", "Resent-To", "Return-Path", "Sender",
    "Sensitivity", "SIO-Label", "SIO-Label-History", "Solicitation", "Subject", "Supersedes",
    "TLS-Report-Domain", "TLS-Report-Submitter", "TLS-Required", "To", "VBR-Info", "X-Archived-At",
    "X-Mittente", "X-PGP-Sig", "X-Ricevuta", "X-Riferimento-Message-ID", "X-TipoRicevuta",
    "X-Trasporto", "X-VerificaSicurezza", "X400-*",
)  # fmt: skip
# Not registered, and written for the recipient or for the servers on the way.
_CUSTOMARY = (
    "Autocrypt*", "BIMI-*", "Chat-*", "Content-*", "Face", "Feedback-ID", "List-*",
    "Mail-Followup-To", "Mail-Reply-To", "OpenPGP", "Precedence", "Return-Receipt-To",
    "Secure-Join*",
    "Thread-Index", "Thread-Topic", "X-Auto-Response-Suppress", "X-Confirm-Reading-To", "X-Face",
    "X-Loop", "X-Priority",
)  # fmt: skip
KNOWN_FIELDS = tuple(sorted((*_REGISTERED, *_CUSTOMARY), key=str.lower))
