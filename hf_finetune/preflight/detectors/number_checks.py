"""Card numbers, IBANs and addresses of computers: what is one by its check digits and ranges."""

from __future__ import annotations

import ipaddress

# Countries by the length of their IBAN, of the registry (https://www.swift.com/resource/iban-registry-pdf).
_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FK FI FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ KW LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_LENGTHS = {country: length for length, countries in _COUNTRIES.items() for country in countries.split()}
# Beginnings of card numbers by how many digits they have (https://en.wikipedia.org/wiki/Payment_card_number).
_ISSUERS: tuple[tuple[range, tuple[int, ...]], ...] = (
    (range(4, 5), (13, 16, 19)),
    (range(51, 56), (16,)),
    (range(2221, 2721), (16,)),
    (range(34, 35), (15,)),
    (range(37, 38), (15,)),
    (range(6011, 6012), (16, 19)),
    (range(644, 660), (16, 19)),
    (range(300, 306), (14,)),
    (range(36, 37), (14,)),
    (range(38, 40), (14,)),
    (range(3528, 3590), (16, 19)),
    (range(1800, 1801), (15,)),
    (range(2131, 2132), (15,)),
    (range(62, 63), (16, 17, 18, 19)),
    (range(56, 59), (12, 16, 19)),
    *((range(start, start + 1), (12, 16, 19)) for start in (5018, 5020, 5038, 6304, 6390, 6759, 6761, 6762, 6763)),
    (range(2200, 2205), (16,)),
)
# As cards are printed: Visa and Mastercard, those of 19 digits, American Express, Diners Club.
_CARD_GROUPS = ((4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4))
# 4.8.0.30 is a version; of addresses few have four numbers as small.
_LARGEST_OF_A_VERSION = 30
# Those of small numbers that are written more often than any version of the same: servers of names.
_KNOWN_ADDRESSES = {"8.8.8.8", "8.8.4.4", "9.9.9.9"}
# What object identifiers begin with, as in certificates: 2.5.29.37.
_OBJECT_ARCS = {bytes(arcs) for arcs in ((1, 2), (1, 3), (2, 5), (2, 16), (2, 23))}


def has_iban_country(text: str) -> bool:
    """Whether `text` is a country whose banks have IBANs, in capitals or not."""
    return text.upper() in _IBAN_LENGTHS


def is_iban(text: str) -> bool:
    """Whether `text` begins with an IBAN, blanks aside, which ends where a group of it does."""
    letters = text.replace(" ", "")
    length = _IBAN_LENGTHS.get(letters[:2])
    if length is None or len(letters) < length:
        return False
    # The pattern takes a word behind it for a group: "NO9386011117947 USD".
    iban = letters[:length]
    if not (text[-1:].isalnum() and _ends_at_group(text, length)):
        return False
    # ISO 7064, MOD 97-10: the first four signs go to the end, and letters count from A = 10 to Z = 35.
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


def _ends_at_group(text: str, length: int) -> bool:
    taken = 0
    for place, letter in enumerate(text):
        taken += letter != " "
        if taken == length:
            return place + 1 == len(text) or text[place + 1] == " "
    return False


def is_card_number(text: str) -> bool:
    """Whether the digits of `text` are a card number: of a range that is issued, and right by Luhn's check digit."""
    groups = text.replace("-", " ").split(" ")
    digits = "".join(groups)
    issued = any(
        len(digits) in lengths and int(digits[: len(str(start.start))]) in start for start, lengths in _ISSUERS
    )
    grouped = len(groups) == 1 or tuple(map(len, groups)) in _CARD_GROUPS
    return grouped and issued and len(set(digits)) > 1 and _is_luhn(digits)


def _is_luhn(digits: str) -> bool:
    # From the right every second digit counts twice, as the sum of the digits of that.
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


def is_public_ipv4(text: str, *, is_named: bool = False) -> bool:
    """Whether `text` is an address of the public internet, and no version (small numbers, zeros) or object.

    `is_named`: what stands before says that it is one, however small its numbers are.
    """
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    numbers = address.packed
    if numbers[:2] in _OBJECT_ARCS:
        return False
    # Browsers call themselves Chrome/120.0.0.0.
    large = max(numbers) > _LARGEST_OF_A_VERSION and numbers[1:] != b"\0\0\0"
    return address.is_global and (large or is_named or text in _KNOWN_ADDRESSES)


def is_public_ipv6(text: str) -> bool:
    """Whether `text` is an address of a host; with a gap (`::`), one that is given out so far."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    # Of all addresses 2000::/3 alone is given out by IANA: a::b of a program is none of these.
    return address.is_global and ("::" not in text or 0x20 <= address.packed[0] <= 0x3F)
