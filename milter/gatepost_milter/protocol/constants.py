"""The numbers of the milter protocol, named as in libmilter's mfdef.h and mfapi.h.

Plain integers and not enums: every packet is compared with them, and an `IntFlag` costs
half a microsecond for each `&`.
"""

# What a milter may do to a message (SMFIF_*).
SMFIF_ADDHDRS = 0x1
SMFIF_CHGBODY = 0x2
SMFIF_ADDRCPT = 0x4
SMFIF_DELRCPT = 0x8
SMFIF_CHGHDRS = 0x10
SMFIF_QUARANTINE = 0x20
SMFIF_CHGFROM = 0x40
SMFIF_ADDRCPT_PAR = 0x80
SMFIF_SETSYMLIST = 0x100

# Which events the MTA keeps to itself (SMFIP_NO*), sends without waiting for an answer
# (SMFIP_NR_*), and extras.
SMFIP_NOCONNECT = 0x1
SMFIP_NOHELO = 0x2
SMFIP_NOMAIL = 0x4
SMFIP_NORCPT = 0x8
SMFIP_NOBODY = 0x10
SMFIP_NOHDRS = 0x20
SMFIP_NOEOH = 0x40
SMFIP_NR_HDR = 0x80
SMFIP_NOUNKNOWN = 0x100
SMFIP_NODATA = 0x200
SMFIP_SKIP = 0x400  # the milter may answer a body chunk with "no more of them"
SMFIP_RCPT_REJ = 0x800  # recipients that the MTA refuses are told as well
SMFIP_NR_CONN = 0x1000
SMFIP_NR_HELO = 0x2000
SMFIP_NR_MAIL = 0x4000
SMFIP_NR_RCPT = 0x8000
SMFIP_NR_DATA = 0x10000
SMFIP_NR_UNKN = 0x20000
SMFIP_NR_EOH = 0x40000
SMFIP_NR_BODY = 0x80000
SMFIP_HDR_LEADSPC = 0x100000  # header values come and go with the blanks after the colon

# Commands of the MTA (SMFIC_*) and answers of the milter (SMFIR_*): the octet after the length.
SMFIC_ABORT = 0x41  # A
SMFIC_BODY = 0x42  # B
SMFIC_CONNECT = 0x43  # C
SMFIC_MACRO = 0x44  # D
SMFIC_BODYEOB = 0x45  # E: end of message
SMFIC_HELO = 0x48  # H
SMFIC_QUIT_NC = 0x4B  # K: quit, another SMTP client follows on the same connection
SMFIC_HEADER = 0x4C  # L
SMFIC_MAIL = 0x4D  # M
SMFIC_EOH = 0x4E  # N
SMFIC_OPTNEG = 0x4F  # O
SMFIC_QUIT = 0x51  # Q
SMFIC_RCPT = 0x52  # R
SMFIC_DATA = 0x54  # T
SMFIC_UNKNOWN = 0x55  # U
SMFIR_DELRCPT = 0x2D  # -
SMFIR_ACCEPT = 0x61  # a
SMFIR_CONTINUE = 0x63  # c
SMFIR_DISCARD = 0x64  # d
SMFIR_INSHEADER = 0x69  # i
SMFIR_CHGHEADER = 0x6D  # m
SMFIR_PROGRESS = 0x70  # p
SMFIR_REJECT = 0x72  # r
SMFIR_SKIP = 0x73  # s
SMFIR_TEMPFAIL = 0x74  # t
SMFIR_REPLYCODE = 0x79  # y

NO_REPLIES = (
    SMFIP_NR_HDR
    | SMFIP_NR_CONN
    | SMFIP_NR_HELO
    | SMFIP_NR_MAIL
    | SMFIP_NR_RCPT
    | SMFIP_NR_DATA
    | SMFIP_NR_UNKN
    | SMFIP_NR_EOH
    | SMFIP_NR_BODY
)
