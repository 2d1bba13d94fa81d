"""Keys of services, by the shape that each issues: what begins so, and is as long, is drawn by chance.

A shape has so many fixed letters, or so long a part by chance, that no word, hash or piece of a vocabulary has it.
"""

from __future__ import annotations

_UUID = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

# Name -> shape. Where several kinds of one service differ in a word, they are one shape.
SERVICE_KEYS = {
    "1Password": r"(?:A3-[A-Z0-9]{6}-[A-Z0-9]{5,6}(?:-?[A-Z0-9]{5}){4}|ops_eyJ[\w+/-]{200,})",
    "Adobe": r"p8e-[A-Za-z0-9]{32}",
    "Airtable": r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}",
    "Alibaba Cloud": r"LTAI[A-Za-z0-9]{20}\b",
    "Amazon Bedrock": r"(?:ABSK[A-Za-z0-9+/]{100,}|bedrock-api-key-[A-Za-z0-9+/]{20,})",
    "Artifactory": r"cmVmdGtu[A-Za-z0-9]{56}",
    "Asana": r"[0-9]/[0-9]{16}(?:/[0-9]{16})?:[0-9a-f]{32}",
    "Authress": r"(?:sc|ext|scauth|authress)_[a-z0-9]{5,30}\.[a-z0-9]{4,6}\.acc[_-][a-z0-9-]{10,32}\.[\w+/=-]{30,}",
    "Azure": r"(?:[\w~.]{3}[0-9]Q~[\w~.-]{31,34}|[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{26})",
    "Brevo": r"xkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16}",
    "ClickHouse": r"4b1d[A-Za-z0-9]{38}\b",
    "Clojars": r"CLOJARS_[0-9a-f]{60}",
    "Cloudflare": r"v1\.0-[0-9a-f]{24}-[0-9a-f]{146}",
    "Contentful": r"CFPAT-[\w-]{43}",
    "Defined Networking": r"dnkey-[A-Z0-9=_-]{26}-[A-Z0-9=_-]{52}",
    "Discord": r"[MNO][A-Za-z0-9_-]{23,27}\.[\w-]{6}\.[\w-]{27,45}\b",
    "Doppler": r"dp\.(?:ct|st|sa|scim|audit)\.(?:[\w-]{1,40}\.)?[A-Za-z0-9]{40,}",
    "Dropbox": r"sl\.(?:u\.)?[\w=-]{130,}",
    "Duffel": r"duffel_(?:test|live)_[\w=-]{43}",
    "Dynatrace": r"dt0[a-z][0-9]{2}\.[A-Z0-9]{24}\.[A-Z0-9]{64}",
    "EasyPost": r"EZ[AT]K[0-9a-f]{26}[A-Za-z0-9]{28}",
    "Facebook": r"EAA[B-Z][A-Za-z0-9]{100,}",
    "Figma": r"fig[dopu]r?_[\w-]{36,}",
    "Flutterwave": r"FLWSECK(?:_TEST)?-[0-9a-hA-H]{12,}(?:-X)?",
    "Fly.io": r"(?:fo1_[\w-]{43}|fm[12][ar]?_[\w+/]{80,})",
    "Frame.io": r"fio-u-[\w=-]{64}",
    "Grafana": r"(?:glc_[A-Za-z0-9+/]{32,}|glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}|eyJrIjoi[A-Za-z0-9+/]{60,})",
    "Harness": r"[ps]at\.[\w-]{22}\.[0-9a-zA-Z]{24}\.[A-Za-z0-9]{20}",
    "HashiCorp": r"(?:[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,}|hv[br]\.[\w-]{100,})",
    "Heroku": r"HRKU-[\w-]{36,}",
    "HubSpot": rf"pat-(?:na|eu)[0-9]-{_UUID}",
    "Infracost": r"ico-[A-Za-z0-9]{32}\b",
    "Intra 42": r"s-s4t2(?:ud|af)-[0-9a-f]{64}",
    "LaunchDarkly": rf"(?:api|sdk|mob)-{_UUID}",
    "Mailgun": r"(?:key-[0-9a-f]{32}|[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8})\b",
    "Mapbox": r"[st]k\.eyJ[A-Za-z0-9_-]{30,}\.[\w-]{20,}",
    "MaxMind": r"[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk",
    "Netlify": r"nf[pco]_[A-Za-z0-9]{36}",
    "New Relic": r"(?:NRAK-[A-Z0-9]{27}|NRJS-[0-9a-f]{19}|NRI[IQ]-[\w-]{32}|NRAA-[0-9a-f]{27})",
    "Notion": r"secret_[A-Za-z0-9]{43}\b",
    "NuGet": r"oy2[a-z0-9]{43}\b",
    "Octopus Deploy": r"API-[A-Z0-9]{26}\b",
    "OpenShift": r"sha256~[\w-]{43}",
    "Plaid": rf"access-(?:sandbox|development|production)-{_UUID}",
    "PlanetScale": r"pscale_(?:tkn|oauth|pw)_[\w=.-]{32,}",
    "Prefect": r"pn[ub]_[A-Za-z0-9]{36}",
    "Pulumi": r"pul-[0-9a-f]{40}",
    "RapidAPI": r"[0-9a-f]{10}msh[0-9a-f]{15}p1[0-9a-f]{6}jsn[0-9a-f]{12}",
    "ReadMe": r"rdme_[a-z0-9]{70}",
    "RubyGems": r"rubygems_[0-9a-f]{48}",
    "Scalingo": r"tk-us-[\w-]{48}",
    "SettleMint": r"sm_[aps]at_[A-Za-z0-9]{16,}",
    "Shippo": r"shippo_(?:live|test)_[0-9a-fA-F]{40}",
    "SonarQube": r"sq[aupb]_[0-9a-f]{40}",
    "Sourcegraph": r"sgp_(?:(?:[0-9a-fA-F]{16}|local)_)?[0-9a-fA-F]{40}",
    "Square": r"sq0(?:atp|idp|csp)-[\w-]{22,}",
    "Stripe": r"[rs]k_prod_[0-9A-Za-z]{16,}",
    "Supabase": r"sb(?:p_[0-9a-f]{40}|p_oauth_[0-9a-f]{40}|_secret_[\w-]{20,})",
    "Tailscale": r"tskey-[a-z]{3,10}-[A-Za-z0-9]{8,24}-[A-Za-z0-9]{20,}",
    "Typeform": r"tfp_[A-Za-z0-9_.=-]{50,}",
    "Vercel": r"vc[pkiar]_[A-Za-z0-9]{24,}\b",
    "Yandex": r"(?:t1\.[\w-]{10,}=*\.[\w-]{86}=*|AQVN[\w-]{35,38}|y[0-3]_[\w-]{55,})",
}
# Addresses that are keys themselves: whoever has one may write, or read what is behind it.
KEYED_ADDRESSES = (
    r"discord(?:app)?\.com/api/(?:v[0-9]{1,2}/)?webhooks/[0-9]{16,21}/[\w-]{50,}",
    rf"\.webhook\.office\.com/webhookb2/{_UUID}(?:@|%40){_UUID}/[A-Za-z]{{5,30}}/[0-9a-f]{{32}}/{_UUID}",
    r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w+/]{35,}",
    r"hooks\.zapier\.com/hooks/catch/[0-9]{4,12}/[a-z0-9]{6,}",
    r"chat\.googleapis\.com/v1/spaces/[\w-]{6,}/messages\?key=[\w-]{20,}",
    # The signature of a shared access signature of Azure.
    r"[?&;]sig=(?:[A-Za-z0-9/+]|%[0-9A-Fa-f]{2}){42,}",
)
