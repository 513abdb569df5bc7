"""A Postfix in memory, as postconf would have told it: right, but for what is changed."""

from pathlib import Path

from gatepost_milter.doctor.postfix_config import PostfixConfig, Service

OURS = "{ inet:127.0.0.1:8894, default_action=accept }"
SAFE = "{inet:127.0.0.1:8894,default_action=tempfail}"
ASKED = "check_policy_service { inet:127.0.0.1:10040, default_action=DUNNO }"
MAIN = {
    "mail_version": "3.7.11", "mail_name": "Postfix", "queue_directory": "/var/spool/postfix",
    "milter_macro_v": "$mail_name $mail_version", "milter_macro_daemon_name": "$myhostname",
    "myhostname": "mx.local.test", "mynetworks": "127.0.0.0/8", "milter_protocol": "6",
    "milter_default_action": "tempfail", "milter_connect_macros": "j {daemon_name} v _",
    "milter_mail_macros": "i {auth_type} {auth_authen}", "smtpd_sasl_auth_enable": "no",
    "milter_rcpt_macros": "i {rcpt_addr} {rcpt_host} {rcpt_mailer}", "smtpd_milters": OURS,
    "non_smtpd_milters": OURS, "smtpd_relay_restrictions": "reject_unauth_destination",
    "smtpd_recipient_restrictions": f"permit_mynetworks, {ASKED}",
    "cleanup_service_name": "cleanup", "smtpd_policy_service_default_action": "451 4.3.5 later",
}  # fmt: skip
SUBMISSION = {"milter_macro_daemon_name": "ORIGINATING", "smtpd_milters": SAFE,
              "smtpd_sasl_auth_enable": "yes", "smtpd_recipient_restrictions": ""}  # fmt: skip
PICKUP = Service("pickup", "unix", "n", "pickup", {})


def config(
    main: dict[str, str] | None = None, submission: dict[str, str] | None = None,
    *more: Service, pickup: Service = PICKUP,
) -> PostfixConfig:  # fmt: skip
    services = (
        Service("smtp", "inet", "n", "smtpd", {}),
        Service("submission", "inet", "n", "smtpd", {**SUBMISSION, **(submission or {})}),
        Service("cleanup", "unix", "n", "cleanup", {}), pickup, *more,
    )  # fmt: skip
    return PostfixConfig({**MAIN, **(main or {})}, services, Path("/nowhere"), Path("/nowhere"))
