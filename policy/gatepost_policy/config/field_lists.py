"""The header fields that submissions lose by default, and those that are known to be harmless.

Globs; case does not matter. conf/gatepost.toml shows the first list in full, docs/privacy.md the
second; tests compare them.
"""

# What mail programs, webmails, scanners and earlier mailboxes write about the sender's place,
# account, machine and software.
DEFAULT_REMOVE = (
    # The program, and what it runs on.
    "X-Mailer*", "User-Agent", "X-User*", "X-HTTP-*", "X-MimeOLE", "X-Newsreader", "X-Browser*",
    "X-Agent", "X-Enigmail", "X-Enigmail-*", "X-Pgp-Agent", "X-PGP-Universal",
    "X-Operating-System", "X-OS", "X-OSVersion", "X-Uptime", "X-Editor", "X-Platform", "X-Kernel",
    "X-Device*", "X-Machine*", "X-Computer*", "X-Workstation*", "X-Mobile-*", "X-Phone-Model",
    "X-Cron-Env", "X-PHPMailer*", "X-Powered-By", "X-Generator",
    # The client's address, name or login, as webmails, scripts and servers pass them on.
    "X-*-IP*", "X-*-User*", "X-*-Login*", "X-*-Device*", "X-*-Timezone*",
    "X-Originating*", "Originating-*", "X-Originator", "X-OriginalArrivalTime",
    "X-Origin-*", "X-OriginIP", "X-OrigIP", "X-ClientProxiedBy", "X-Client*", "Client-IP",
    "CF-*", "True-Client-IP", "Forwarded", "Via", "X-Via", "X-Proxy*", "X-BlueCoat-*",
    "X-Forward", "X-Forwarded", "X-Forwarded-By", "X-Forwarded-Email", "X-Forwarded-For",
    "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Server", "X-Forwarded-User", "X-IP",
    "X-IP-*", "X-Peer*", "X-Remote*", "Remote-Addr", "X-Request-*", "X-Session*", "Referer",
    "X-Referer", "X-Referrer", "X-Script*", "X-Mail-Script", "X-URL-From", "X-Host",
    "X-Hostname", "X-HELO", "X-EHLO", "X-SMTP-*", "X-Source*", "X-Sender", "X-Sender-*",
    "X-SenderIP", "X-Senders-IP", "Sender-IP", "X-Sending-*", "X-X-Sender", "X-cc-sender",
    "X-Env-Sender", "X-Envelope*", "X-Real-*", "X-Return-Path", "X-Sent-*", "X-Posted-*",
    "X-Posting-*", "X-PostingIP", "X-Submitted-*", "X-Submitter", "X-Ident*", "X-Account*",
    "X-Login*", "X-LogName", "X-Unix-*", "X-SASL-*", "X-Auth*", "X-Webmail*", "X-AntiAbuse",
    "X-Abuse*", "X-Get-Message-Sender-Via", "X-PHP-*", "X-MDRemoteIP", "X-MDHelo",
    "Received-SPF", "X-Received*", "X-Trace", "X-Location", "X-Country*", "X-City", "X-Geo*",
    "GeoIP*", "X-GPS*", "X-Latitude", "X-Longitude", "X-Timezone", "X-Time-Zone", "X-TZ",
    "NNTP-Posting-*", "Injection-Info", "X-Injected-*",
    # What particular programs write for their own use.
    "X-Mozilla-*", "FCC", "X-Fcc*", "Gcc", "X-Evolution-*", "X-KMail-*", "X-K9*", "X-K-9*",
    "X-FairEmail*", "X-Aqua*", "X-Android*", "X-Samsung*", "X-RIM-*", "X-BlackBerry*",
    "X-Nokia*", "X-Claws-*", "X-Sylpheed-*", "X-Gnus-*", "X-VM-*", "X-MH-*", "X-Draft-*",
    "X-Template", "X-Compose-*", "X-Reply-UIDL", "X-Reply-To-UIDL", "X-Apple-*", "X-Readdle-*",
    "X-Superhuman-*", "X-Mailspring*", "X-Mailbutler-*", "X-Postbox-*", "X-Airmail*", "X-Canary*",
    "X-CloudMagic*", "X-Nylas*", "X-Boxbe-*", "X-Streak*", "X-Mixmax*", "X-Yesware*",
    "X-HubSpot*", "X-PMFLAGS", "X-PMRQC", "X-eM-*", "X-Foxmail*", "X-Has-Attach",
    "X-Uniform-Type-Identifier", "X-Universally-Unique-Identifier", "X-RoundCube*", "X-SOGo*",
    "X-Nextcloud*", "X-Horde*", "X-IMP-*", "X-Squirrel*", "X-RainLoop*", "X-SnappyMail*",
    "X-Cypht*", "X-OpenWebMail*", "X-AtMail*", "X-AfterLogic*", "X-Zimbra*", "X-Kopano-*",
    "X-Kerio-*", "X-MIMETrack", "X-Notes-*", "X-Eudora-*", "X-Attachments", "X-TUID",
    "X-OfflineIMAP*", "X-QQ-*", "X-GUID", "X-Coremail-*", "X-CM-*", "X-NetEase*", "X-NTES-*",
    "X-Gm-*", "X-Google-*", "X-Gmail-*", "X-Olk*", "X-MSMail-*", "X-MS-*", "X-Microsoft-*",
    "X-Forefront-*", "X-EOP*", "X-EWS-*", "X-OriginatorOrg", "MSIP_Labels", "X-Yahoo-*",
    "X-YMail-*", "X-Rocket-*", "X-AOL-*", "X-MB-*", "X-UI-*", "X-Provags-ID", "X-TOI-*",
    "X-Yandex-*", "X-Mailru-*", "X-Mras", "X-MDaemon-*", "X-MDArrival-Date", "X-MDAV-*",
    "X-hMailServer-*", "X-CommuniGate*", "X-Exim-*", "X-OVH-*", "X-ME-*", "X-Cyrus-*",
    "X-Dovecot-*", "X-Sieve*", "X-Lotus-*", "X-GroupWise*", "X-Zarafa-*", "X-Exclaimer-*",
    "X-CodeTwo*", "X-CrossPremises*", "X-IncrediMail*", "X-ELM-*", "X-VMS-*", "X-PINE-*",
    "X-Dispatcher", "X-WordPress*", "X-WP-*",
    # The language.
    "X-*-Language*",
    "Accept-Language", "AcceptLanguage", "X-Accept-Language", "Content-Language", "X-Language",
    "X-Lang", "X-Locale",
    # Scanners on the sender's side.
    "X-Antivirus*", "X-Anti-Virus*", "X-AV-*", "X-AVG*", "X-Avast*", "X-AVK-*", "X-BitDefender*",
    "X-ClamAV*", "X-DrWeb*", "X-Eset*", "X-F-Secure*", "X-Kaspersky*", "X-KLMS-*", "X-McAfee*",
    "X-NAI-*", "X-Norton*", "X-Sophos*", "X-Symantec*", "X-TM-AS-*", "X-TMASE-*", "X-Virus*",
    "X-MailScanner*", "X-*-MailScanner*", "X-Mail-Scanner*", "X-Scanned*", "X-Amavis-*",
    "X-Spam*", "X-Bogosity", "X-DSPAM-*", "X-CRM114-*", "X-Rspamd-*", "X-ASSP-*", "X-CTCH-*",
    "X-PMX-*", "X-FEAS-*", "X-Mimecast-*", "X-Brightmail-*", "X-Proofpoint-*", "X-Barracuda-*",
    "X-IronPort-*",
    # What earlier mailboxes and readers wrote into it.
    "Status", "X-Status", "X-UID", "X-UIDL", "X-IMAP*", "X-Keywords", "X-Label", "X-Folder",
    "Delivered-To", "Delivery-Agent", "X-Delivered-To", "X-Original-To", "X-Original-Recipient",
    "X-Rcpt-To", "Envelope-To", "Delivery-Date", "Bcc", "X-Bcc", "Resent-Bcc",
    "Resent-User-Agent", "Resent-X-*",
    # What Postfix makes of a mailbox's "From " line at the top: who wrote it, and when.
    "Mailbox-Line",
)  # fmt: skip

# Kept although a glob of the list above covers it: without it winmail.dat cannot be unpacked.
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
# Not registered, but written for the recipient or for servers on the way.
_CUSTOMARY = (
    "Autocrypt*", "BIMI-*", "Chat-*", "Content-*", "Face", "Feedback-ID", "List-*",
    "Mail-Followup-To", "Mail-Reply-To", "OpenPGP", "Precedence", "Return-Receipt-To",
    "Secure-Join*",
    "Thread-Index", "Thread-Topic", "X-Auto-Response-Suppress", "X-Confirm-Reading-To", "X-Face",
    "X-Loop", "X-Priority",
)  # fmt: skip
KNOWN_FIELDS = tuple(sorted((*_REGISTERED, *_CUSTOMARY), key=str.lower))

# Known, but written by programs, which also put in their machine or the account of the login
# ("Comments: Authenticated sender is <login>"). Such a field is removed where its value names the
# client.
PROGRAM_TEXT = (
    "Archived-At", "Authentication-Results", "Comments", "Content-Base", "Content-Description",
    "Content-Location", "Feedback-ID", "Keywords", "Organization", "Original-Recipient",
    "X-Archived-At", "X-Loop",
)  # fmt: skip
# Of these families of known fields the ones that mail needs are known; any other name is one that
# nobody has heard of, and its field goes where it names the client or has an address of a private
# network.
PROGRAM_FAMILIES = ("BIMI-", "Content-", "List-", "MMHS-", "X400-")
IN_THE_FAMILIES = (
    "Content-Alternative", "Content-Class", "Content-Disposition", "Content-Duration",
    "Content-Features", "Content-ID", "Content-Language", "Content-MD5",
    "Content-Transfer-Encoding", "Content-Translation-Type", "Content-Type", "List-Archive",
    "List-Help", "List-ID", "List-Owner", "List-Post", "List-Subscribe", "List-Unsubscribe",
    "List-Unsubscribe-Post",
)  # fmt: skip
# Fields with addresses that programs add by themselves: one is removed where it names the client,
# unless From says the same.
PROGRAM_ADDRESSES = (
    "Disposition-Notification-To", "Errors-To", "Original-From", "Originator-Return-Address",
    "Resent-Sender", "Return-Receipt-To", "Sender", "X-Confirm-Reading-To",
)  # fmt: skip
